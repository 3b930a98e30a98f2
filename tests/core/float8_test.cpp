#include "core/float8.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

/// The value of each non-negative finite code, from the definition: (-1)^s 2^(e-7) (1 + m/8), or 2^-6 m/8 for e = 0.
double value_of_code(int code) {
  const int exponent = code >> 3, mantissa = code & 7;
  return exponent == 0 ? std::ldexp(mantissa / 8.0, -6) : std::ldexp(1 + mantissa / 8.0, exponent - 7);
}

/// The nearest code by search in double, ties to the even code, saturating at 448 (code 0x7e).
int nearest_code(double magnitude) {
  int low = 0;
  while (low < 0x7e && value_of_code(low + 1) <= magnitude) ++low;
  if (low == 0x7e) return low;
  const double below = magnitude - value_of_code(low), above = value_of_code(low + 1) - magnitude;
  if (below == above) return low % 2 == 0 ? low : low + 1;
  return below < above ? low : low + 1;
}

TEST(Float8E4M3, EveryCodeHasTheValueOfTheDefinition) {
  for (int code = 0; code < 0x7f; ++code) {
    EXPECT_EQ(to_float(float8_e4m3{static_cast<uint8_t>(code)}), value_of_code(code)) << code;
    EXPECT_EQ(to_float(float8_e4m3{static_cast<uint8_t>(code | 0x80)}), -value_of_code(code)) << code;
  }
  EXPECT_TRUE(std::isnan(to_float(float8_e4m3{0x7f})));
  EXPECT_TRUE(std::isnan(to_float(float8_e4m3{0xff})));
  EXPECT_TRUE(std::signbit(to_float(float8_e4m3{0x80})));
  EXPECT_EQ(to_float(float8_e4m3{0x7e}), kFloat8E4M3Max);
}

TEST(Float8E4M3, EveryCodeSurvivesTheRoundTrip) {
  for (int code = 0; code < 0x100; ++code) {
    if ((code & 0x7f) == 0x7f) continue;
    EXPECT_EQ(to_float8_e4m3(to_float(float8_e4m3{static_cast<uint8_t>(code)})).bits, code);
  }
}

TEST(Float8E4M3, HalfWayGoesToTheEvenCodeAndItsNeighboursToTheNearest) {
  for (int code = 0; code < 0x7e; ++code) {
    const auto half = static_cast<float>((value_of_code(code) + value_of_code(code + 1)) / 2);
    const int even = code % 2 == 0 ? code : code + 1;
    EXPECT_EQ(to_float8_e4m3(half).bits, even) << code;
    EXPECT_EQ(to_float8_e4m3(-half).bits, even | 0x80) << code;
    EXPECT_EQ(to_float8_e4m3(std::nextafter(half, 0.0f)).bits, code) << code;
    EXPECT_EQ(to_float8_e4m3(std::nextafter(half, 1000.0f)).bits, code + 1) << code;
  }
}

TEST(Float8E4M3, AgreesWithASearchOverAllExponents) {
  // Every exponent with every leading pattern of 11 mantissa bits, each with a sticky bit below and without.
  for (uint32_t high = 0; high < 0x7f80000u >> 8; ++high) {
    for (uint32_t sticky : {0u, 1u}) {
      const uint32_t bits = (high << 12) | sticky;
      float x;
      memcpy(&x, &bits, sizeof x);
      ASSERT_EQ(to_float8_e4m3(x).bits, nearest_code(x)) << x;
    }
  }
}

TEST(Float8E4M3, SaturatesAndKeepsNan) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (float x : {448.0f, 449.0f, 464.0f, 465.0f, 480.0f, 1e30f, infinity}) {
    EXPECT_EQ(to_float8_e4m3(x).bits, 0x7e) << x;
    EXPECT_EQ(to_float8_e4m3(-x).bits, 0xfe) << x;
  }
  EXPECT_EQ(to_float8_e4m3(std::numeric_limits<float>::quiet_NaN()).bits, 0x7f);
  EXPECT_EQ(to_float8_e4m3(-std::numeric_limits<float>::quiet_NaN()).bits, 0x7f);
}

TEST(Float8E4M3, ZeroAndTinyValuesKeepTheirSign) {
  EXPECT_EQ(to_float8_e4m3(0.0f).bits, 0x00);
  EXPECT_EQ(to_float8_e4m3(-0.0f).bits, 0x80);
  EXPECT_EQ(to_float8_e4m3(0x1p-10f).bits, 0x00);  // half of the smallest subnormal: to even
  EXPECT_EQ(to_float8_e4m3(-0x1.000002p-10f).bits, 0x81);
  EXPECT_EQ(to_float8_e4m3(std::numeric_limits<float>::denorm_min()).bits, 0x00);
}

}  // namespace
}  // namespace deeptitan
