#include "core/bfloat16.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

TEST(Bfloat16, RoundsToNearestTiesToEven) {
  EXPECT_EQ(to_bfloat16(1.0f).bits, 0x3f80);
  EXPECT_EQ(to_bfloat16(1.0f + 1.0f / 256).bits, 0x3f80);                  // half way: to even, down
  EXPECT_EQ(to_bfloat16(1.0f + 3.0f / 256).bits, 0x3f82);                  // half way: to even, up
  EXPECT_EQ(to_bfloat16(1.0f + 1.01f / 256).bits, 0x3f81);                 // just above half way
  EXPECT_EQ(to_bfloat16(std::numeric_limits<float>::max()).bits, 0x7f80);  // rounds to infinity
}

TEST(Bfloat16, KeepsNanAndInfinityApart) {
  EXPECT_TRUE(std::isnan(to_float(to_bfloat16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isinf(to_float(to_bfloat16(std::numeric_limits<float>::infinity()))));
}

TEST(Bfloat16, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const bfloat16 x{static_cast<uint16_t>(bits)};
    if (std::isnan(to_float(x))) continue;
    EXPECT_EQ(to_bfloat16(to_float(x)).bits, x.bits);
  }
}

}  // namespace
}  // namespace deeptitan
