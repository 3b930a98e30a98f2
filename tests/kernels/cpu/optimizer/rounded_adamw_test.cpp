// AdamW with moments in bf16, rounded at random.

#include <array>
#include <limits>

#include "kernels/cpu/optimizer/adamw.h"
#include "kernels/cpu/vector_kernel_test.h"

namespace deeptitan::cpu {
namespace {

constexpr RoundingPlace kPlace{.key = rounding_key("model.layers.3.mlp.experts.{}.down_proj.weight"), .first = 4099};

uint32_t word_of(const RoundingPlace& place, int64_t i, int64_t step) {
  const auto element = static_cast<uint64_t>(place.first + i);
  return rounding_words(place.key, element / 4, static_cast<uint64_t>(step)).word[element % 4];
}

TEST(RoundRandomly, IsTheValueOnAverage) {
  for (const float x : {1.0f, 1.00390625f, 1.001f, -3.14159f, 1e-30f, -1.2e-39f, 0x1p-133f * 1.25f, 3.3e38f}) {
    double sum = 0;
    for (uint32_t random = 0; random < 65536; ++random) {
      sum += to_float(round_randomly(x, static_cast<uint16_t>(random)));
    }
    EXPECT_EQ(sum / 65536, static_cast<double>(x)) << x;
  }
}

TEST(RoundRandomly, WhatNeedsNoRoundingAndWhatIsNotFiniteStays) {
  for (const uint16_t random : {0, 1, 0x8000, 0xffff}) {
    for (const float x : {0.0f, -0.0f, 1.5f, -0x1p-133f, std::numeric_limits<float>::infinity(), -HUGE_VALF}) {
      EXPECT_EQ(round_randomly(x, random).bits, to_bfloat16(x).bits) << x;
    }
    const uint32_t low_payload = 0x7f800001u;  // a NaN by its lower half alone
    float nan;
    std::memcpy(&nan, &low_payload, sizeof nan);
    EXPECT_TRUE(std::isnan(to_float(round_randomly(nan, random))));
  }
}

// In the first step the moments are products of the gradient, which float computes as the kernel does: every bit of the
// rounding is known.
TEST(RoundedAdamW, RoundsByTheElementsPlaceAndTheStep) {
  on_each_instruction_set([] {
    const AdamWOptions options{0.9, 0.95, 1e-8};
    for (const int64_t n : {1, 7, 33, 1023, 1024, 1025, 5000}) {
      for (const int64_t step : {int64_t{1}, (int64_t{5} << 32) + 7}) {
        auto gradient = random_normal<float>(n, 5);
        if (n > 3) gradient[3] = std::numeric_limits<float>::quiet_NaN();
        std::vector<float> parameter(gradient.size());
        std::vector<bfloat16> m(gradient.size()), v(gradient.size());
        adamw_update(parameter.data(), m.data(), v.data(), gradient.data(), n, 1e-2, 0.1, 1.0f, step, options, kPlace);
        const auto part_of_m = static_cast<float>(1.0 - options.beta1);
        const auto part_of_v = static_cast<float>(1.0 - options.beta2);
        for (int64_t i = 0; i < n; ++i) {
          const uint32_t word = word_of(kPlace, i, step);
          const bfloat16 expected_m = round_randomly(part_of_m * gradient[i], static_cast<uint16_t>(word));
          const bfloat16 expected_v =
              round_randomly((part_of_v * gradient[i]) * gradient[i], static_cast<uint16_t>(word >> 16));
          ASSERT_EQ(m[i].bits, expected_m.bits) << i << " of " << n;
          ASSERT_EQ(v[i].bits, expected_v.bits) << i << " of " << n;
        }
      }
    }
  });
}

// Against the equations in double, from the moments as they were kept: the parameter is updated with moments that are
// not rounded yet, and those that are kept are one of the two values around.
TEST(RoundedAdamW, MatchesTheReferenceOverSeveralSteps) {
  on_each_instruction_set([] {
    const AdamWOptions options{0.9, 0.95, 1e-8};
    const int64_t n = 5000;
    auto parameter = random_normal<float>(n, 1);
    std::vector<bfloat16> m(parameter.size()), v(parameter.size());
    for (int64_t step = 1; step <= 5; ++step) {
      const auto gradient = random_normal<float>(n, static_cast<uint32_t>(10 + step));
      const auto old_parameter = to_double(parameter), old_m = to_double(m), old_v = to_double(v);
      adamw_update(parameter.data(), m.data(), v.data(), gradient.data(), n, 1e-2, 0.1, 0.5f, step, options, kPlace);
      for (size_t i = 0; i < parameter.size(); ++i) {
        const double g = 0.5 * gradient[i];
        const double new_m = options.beta1 * old_m[i] + (1.0 - options.beta1) * g;
        const double new_v = options.beta2 * old_v[i] + (1.0 - options.beta2) * g * g;
        const double m_hat = new_m / (1.0 - std::pow(options.beta1, static_cast<double>(step)));
        const double v_hat = new_v / (1.0 - std::pow(options.beta2, static_cast<double>(step)));
        const double expected = old_parameter[i] * (1.0 - 1e-3) - 1e-2 * m_hat / (std::sqrt(v_hat) + options.epsilon);
        ASSERT_NEAR(parameter[i], expected, 1e-6 * (std::abs(expected) + 1.0)) << i;
        // bfloat16 has eight bits: neighbours are at most 2^-7 of the value apart.
        ASSERT_NEAR(to_float(m[i]), new_m, 0x1p-7 * std::abs(new_m) + 1e-7) << i;
        ASSERT_NEAR(to_float(v[i]), new_v, 0x1p-7 * new_v + 1e-9) << i;
      }
    }
  });
}

// A mean that moves by a tenth of bfloat16's last place in a step: rounded to nearest it would stand still.
TEST(RoundedAdamW, SmallChangesArriveOnAverage) {
  const AdamWOptions options{0.999, 0.999, 1e-8};
  constexpr int64_t kElements = 4096;
  constexpr int kSteps = 200;
  std::vector<float> parameter(kElements);
  const std::vector<float> gradient(kElements, 1.5f);
  std::vector<bfloat16> m(kElements, to_bfloat16(1.0f)), v(kElements, to_bfloat16(1.0f));
  for (int64_t step = 1; step <= kSteps; ++step) {
    adamw_update(parameter.data(), m.data(), v.data(), gradient.data(), kElements, 0, 0, 1.0f, step, options, kPlace);
  }
  const auto mean = [](const std::vector<bfloat16>& values) {
    double sum = 0;
    for (const bfloat16 value : values) sum += to_float(value);
    return sum / static_cast<double>(values.size());
  };
  const double left = std::pow(0.999, kSteps);
  EXPECT_NE(to_float(to_bfloat16(1.0005f)), 1.0005f);
  // A rounding's deviation is at most half of 2^-7: 200 of them, over 4096 elements, make 0.0009. Five times that.
  EXPECT_NEAR(mean(m), 1.5 - 0.5 * left, 0.0045);
  EXPECT_NEAR(mean(v), 2.25 - 1.25 * left, 0.0045 * 2);
}

TEST(RoundedAdamW, PartsAndThreadsDoNotShow) {
  const int64_t n = 100001;
  const auto gradient = random_normal<float>(n, 2);
  const auto before = random_normal<float>(n, 3);
  const auto update = [&](const std::vector<int64_t>& cuts) {
    auto parameter = before;
    std::vector<bfloat16> m(before.size()), v(before.size());
    for (int64_t step = 1; step <= 2; ++step) {
      for (size_t c = 0; c + 1 < cuts.size(); ++c) {
        const int64_t at = cuts[c];
        adamw_update(parameter.data() + at, m.data() + at, v.data() + at, gradient.data() + at, cuts[c + 1] - at, 1e-3,
                     0.1, 1.0f, step, {}, {kPlace.key, kPlace.first + at});
      }
    }
    for (size_t i = 0; i < m.size(); ++i) parameter.push_back(to_float(m[i])), parameter.push_back(to_float(v[i]));
    return parameter;
  };
  expect_independent_of_threads([&] { return update({0, n}); });
  expect_same_bits(update({0, 1, 2, 50000, 50007, n}), update({0, n}));
}

TEST(RoundedAdamW, ParametersAndStepsAreRoundedIndependently) {
  const int64_t n = 4000;
  const std::vector<float> gradient(n, 0.7f);
  const auto moments = [&](const RoundingPlace& place, int64_t step) {
    std::vector<float> parameter(n);
    std::vector<bfloat16> m(n), v(n);
    adamw_update(parameter.data(), m.data(), v.data(), gradient.data(), n, 1e-3, 0.1, 1.0f, step, {}, place);
    return std::array{m, v};
  };
  const auto differing = [&](const std::vector<bfloat16>& a, const std::vector<bfloat16>& b) {
    int count = 0;
    for (size_t i = 0; i < a.size(); ++i) count += a[i].bits != b[i].bits ? 1 : 0;
    return count;
  };
  const auto one = moments(kPlace, 1);
  for (const auto& other : {moments({rounding_key("model.norm.weight"), kPlace.first}, 1), moments(kPlace, 2),
                            moments({kPlace.key, kPlace.first + 1}, 1)}) {
    // Between two values with the chances p and 1 - p, 2 p (1 - p) of the elements differ.
    for (const size_t moment : {0, 1}) EXPECT_GT(differing(one[moment], other[moment]), n / 10) << moment;
  }
  int same = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t word = word_of(kPlace, i, 1);
    same += (word & 0x8000) == (word >> 16 & 0x8000) ? 1 : 0;
  }
  EXPECT_NEAR(same, n / 2, 160) << "the two halves of a word";  // five deviations
}

}  // namespace
}  // namespace deeptitan::cpu
