#include "core/random.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

void expect_words(Philox4x32 found, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  EXPECT_EQ(found.word[0], a);
  EXPECT_EQ(found.word[1], b);
  EXPECT_EQ(found.word[2], c);
  EXPECT_EQ(found.word[3], d);
}

// The three known answers that the generator's authors publish for philox4x32 with ten rounds.
TEST(Philox, KnownAnswers) {
  expect_words(philox4x32_10({{0, 0, 0, 0}}, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
  expect_words(philox4x32_10({{~0u, ~0u, ~0u, ~0u}}, ~uint64_t{0}), 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd);
  expect_words(philox4x32_10({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0x299f31d0a4093822u), 0xd16cfe09,
               0x94fdcceb, 0x5001e420, 0x24126ea1);
}

TEST(Random, KeysDependOnPurposeAndSeed) {
  EXPECT_NE(random_key("a", 1), random_key("b", 1));
  EXPECT_NE(random_key("a", 1), random_key("a", 2));
  static_assert(random_key("model.norm.weight", 7) == random_key("model.norm.weight", 7));
}

TEST(Random, SixtyFourBitsAreTwoNeighbouringWords) {
  for (uint64_t i = 0; i < 9; ++i) {
    EXPECT_EQ(random_bits_64(5, i), random_bits(5, 2 * i) | (uint64_t{random_bits(5, 2 * i + 1)} << 32));
  }
}

TEST(Random, UniformStaysInRangeAndHasItsMoments) {
  double sum = 0, sum_of_squares = 0;
  const int n = 200000;
  for (int i = 0; i < n; ++i) {
    const double u = random_uniform(random_key("test", 3), i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    sum_of_squares += u * u;
  }
  EXPECT_NEAR(sum / n, 0.5, 0.003);                 // 4.6 standard errors
  EXPECT_NEAR(sum_of_squares / n, 1.0 / 3, 0.003);  // 4.5
}

TEST(Random, LogarithmAndAngleMatchTheLibrary) {
  for (double x = 0x1p-33; x < 1.0; x = x * 1.37 + 1e-7) {
    EXPECT_NEAR(random_detail::log_of(x), std::log(x), 1e-11) << x;
  }
  for (int i = 0; i < 1000; ++i) {
    double cosine, sine;
    random_detail::cos_sin_of(i / 1000.0, &cosine, &sine);
    EXPECT_NEAR(cosine, std::cos(2 * M_PI * i / 1000.0), 1e-9);
    EXPECT_NEAR(sine, std::sin(2 * M_PI * i / 1000.0), 1e-9);
  }
}

TEST(Random, NormalHasItsMoments) {
  const int n = 400000;
  std::vector<float> x(n);
  fill_normal(x.data(), x.size(), random_key("moments", 11), 1.0f);
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0, beyond_two = 0;
  for (const double v : x) {
    m1 += v, m2 += v * v, m3 += v * v * v, m4 += v * v * v * v;
    beyond_two += std::fabs(v) > 2;
  }
  EXPECT_NEAR(m1 / n, 0, 0.008);  // five standard errors: 5/sqrt(n) times 1, 1.41, 3.87, 9.8 and 0.21
  EXPECT_NEAR(m2 / n, 1, 0.012);
  EXPECT_NEAR(m3 / n, 0, 0.031);
  EXPECT_NEAR(m4 / n, 3, 0.078);
  EXPECT_NEAR(beyond_two / n, 0.0455, 0.0017);
}

TEST(Random, EveryElementDependsOnKeyAndIndexAlone) {
  std::vector<float> whole(50021);  // long enough to be shared between threads
  fill_normal(whole.data(), whole.size(), 42, 0.02f);
  for (const uint64_t first : {0u, 1u, 2u, 3u, 4u, 777u, 50020u}) {
    std::vector<float> part(std::min<size_t>(9, whole.size() - first));
    fill_normal(part.data(), part.size(), 42, 0.02f, first);
    for (size_t i = 0; i < part.size(); ++i) {
      EXPECT_EQ(part[i], whole[first + i]);
      EXPECT_EQ(part[i], 0.02f * random_normal(42, first + i));
    }
  }
  fill_normal(nullptr, 0, 42, 0.02f);
}

}  // namespace
}  // namespace deeptitan
