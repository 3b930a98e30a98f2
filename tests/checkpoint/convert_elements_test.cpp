#include "checkpoint/convert_elements.h"

#include <cmath>
#include <cstring>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/bfloat16.h"
#include "core/float8.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

TEST(ConvertElements, EveryHalfBecomesItsValue) {
  std::vector<uint16_t> halves(0x10000);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  std::vector<float> floats(halves.size());
  convert_elements(halves.data(), DType::kF16, floats.data(), DType::kF32, 0x10000);
  for (int i = 0; i < 0x10000; ++i) {
    const int exponent = (i >> 10) & 31, mantissa = i & 1023;
    const float x = floats[static_cast<size_t>(i)];
    ASSERT_EQ(std::signbit(x), i >= 0x8000) << i;
    if (exponent == 31) {
      ASSERT_TRUE(mantissa == 0 ? std::isinf(x) : std::isnan(x)) << i;
    } else {
      const double value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      ASSERT_EQ(std::fabs(x), value) << i;
    }
  }
}

TEST(ConvertElements, AllPairsAgreeWithTheElementFunctions) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 30);
  constexpr int64_t kCount = 70'001;  // above the size from which threads share the work, and odd
  std::vector<float> floats(kCount);
  for (float& x : floats) x = normal(random);
  std::vector<double> doubles(floats.begin(), floats.end());
  std::vector<bfloat16> rounded(kCount), rounded_from_double(kCount);
  std::vector<float8_e4m3> small(kCount);
  convert_elements(floats.data(), DType::kF32, rounded.data(), DType::kBF16, kCount);
  convert_elements(doubles.data(), DType::kF64, rounded_from_double.data(), DType::kBF16, kCount);
  convert_elements(rounded.data(), DType::kBF16, small.data(), DType::kF8E4M3, kCount);
  std::vector<float> back(kCount), back_small(kCount);
  convert_elements(rounded.data(), DType::kBF16, back.data(), DType::kF32, kCount);
  convert_elements(small.data(), DType::kF8E4M3, back_small.data(), DType::kF32, kCount);
  for (size_t i = 0; i < kCount; ++i) {
    ASSERT_EQ(rounded[i].bits, to_bfloat16(floats[i]).bits);
    ASSERT_EQ(rounded_from_double[i].bits, rounded[i].bits);
    ASSERT_EQ(back[i], to_float(rounded[i]));
    ASSERT_EQ(small[i].bits, to_float8_e4m3(back[i]).bits);
    ASSERT_EQ(back_small[i], to_float(small[i]));
  }
}

TEST(ConvertElements, UnalignedSourcesAndNothingAtAll) {
  const std::vector<float> floats = {1.5f, -2.0f};
  std::vector<char> bytes(9);
  std::memcpy(bytes.data() + 1, floats.data(), 8);
  bfloat16 rounded[2];
  convert_elements(bytes.data() + 1, DType::kF32, rounded, DType::kBF16, 2);
  EXPECT_EQ(rounded[0].bits, 0x3fc0);
  EXPECT_EQ(rounded[1].bits, 0xc000);
  const std::vector<char> large(3'000'001, 'z');  // copied by several threads
  std::vector<char> copy(large.size());
  convert_elements(large.data(), DType::kI8, copy.data(), DType::kI8, 3'000'001);
  EXPECT_EQ(copy, large);
  convert_elements(nullptr, DType::kF32, nullptr, DType::kF32, 0);
  convert_elements(nullptr, DType::kF16, nullptr, DType::kF32, 0);
}

TEST(ConvertElements, RefusesWhatHasNoNumbers) {
  char byte = 0;
  float x = 0;
  EXPECT_EQ(message_of([&] { convert_elements(&byte, DType::kBool, &x, DType::kF32, 1); }),
            "elements of bool cannot be converted to f32");
  EXPECT_EQ(message_of([&] { convert_elements(&x, DType::kF32, &byte, DType::kF16, 1); }),
            "elements of f32 cannot be converted to f16");
}

struct Size {
  int64_t rows, columns;
};
void PrintTo(const Size& size, std::ostream* out) {
  *out << size.rows << " x " << size.columns;
}
class Float8Blocks : public testing::TestWithParam<Size> {};

TEST_P(Float8Blocks, QuantiseAndDequantiseFollowTheDefinition) {
  const int64_t rows = GetParam().rows, columns = GetParam().columns;
  const int64_t row_blocks = (rows + 127) / 128, column_blocks = (columns + 127) / 128;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> weights(static_cast<size_t>(rows * columns));
  for (int64_t i = 0; i < rows * columns; ++i) {
    // Blocks of very different sizes, so that a wrong scale cannot pass.
    const int64_t block = i / columns / 128 * column_blocks + i % columns / 128;
    weights[static_cast<size_t>(i)] = std::ldexp(normal(random), static_cast<int>(block % 7) * 5 - 15);
  }
  std::vector<uint8_t> values(weights.size());
  std::vector<float> scales(static_cast<size_t>(row_blocks * column_blocks));
  quantize_float8_blocks(weights.data(), DType::kF32, rows, columns, values.data(), scales.data());
  std::vector<float> restored(weights.size());
  std::vector<bfloat16> rounded(weights.size());
  dequantize_float8_blocks(values.data(), scales.data(), rows, columns, restored.data(), DType::kF32);
  dequantize_float8_blocks(values.data(), scales.data(), rows, columns, rounded.data(), DType::kBF16);

  std::vector<float> largest(scales.size());
  const auto block_of = [&](int64_t i) {
    return static_cast<size_t>(i / columns / 128 * column_blocks + i % columns / 128);
  };
  for (int64_t i = 0; i < rows * columns; ++i) {
    largest[block_of(i)] = std::max(largest[block_of(i)], std::fabs(weights[static_cast<size_t>(i)]));
  }
  for (size_t b = 0; b < scales.size(); ++b) ASSERT_EQ(scales[b], largest[b] / 448.0f) << b;
  for (int64_t i = 0; i < rows * columns; ++i) {
    const auto k = static_cast<size_t>(i);
    const float scale = scales[block_of(i)];
    ASSERT_EQ(values[k], to_float8_e4m3(weights[k] / scale).bits) << i;
    ASSERT_EQ(restored[k], to_float(float8_e4m3{values[k]}) * scale) << i;
    ASSERT_EQ(rounded[k].bits, to_bfloat16(restored[k]).bits) << i;
    // Three mantissa bits: at most 1/16 of the value, and half a subnormal step of the block's scale below.
    ASSERT_LE(std::fabs(restored[k] - weights[k]), std::max(std::fabs(weights[k]) / 16, scale * 0x1p-10f) * 1.0001f)
        << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Float8Blocks,
                         testing::Values(Size{1, 1}, Size{128, 128}, Size{129, 127}, Size{1, 300}, Size{300, 1},
                                         Size{257, 513}, Size{0, 5}, Size{5, 0}),
                         [](const auto& instance) {
                           return std::to_string(instance.param.rows) + "x" + std::to_string(instance.param.columns);
                         });

TEST(QuantizeFloat8Blocks, ZerosTinyInfiniteAndNan) {
  uint8_t values[2];
  float scale, weights[2] = {0.0f, -0.0f}, restored[2];
  quantize_float8_blocks(weights, DType::kF32, 1, 2, values, &scale);
  EXPECT_EQ(scale, 1.0f);
  EXPECT_EQ(values[0], 0x00);
  EXPECT_EQ(values[1], 0x80);

  weights[0] = std::numeric_limits<float>::denorm_min();
  quantize_float8_blocks(weights, DType::kF32, 1, 2, values, &scale);
  EXPECT_EQ(scale, std::numeric_limits<float>::min());

  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    weights[0] = bad;
    quantize_float8_blocks(weights, DType::kF32, 1, 2, values, &scale);
    dequantize_float8_blocks(values, &scale, 1, 2, restored, DType::kF32);
    EXPECT_FALSE(std::isfinite(restored[0]));
  }
  EXPECT_EQ(message_of([&] { quantize_float8_blocks(weights, DType::kF16, 1, 2, values, &scale); }),
            "fp8 blocks can be quantised from f32 or bf16, not from f16");
}

TEST(FirstNotFinite, FindsTheFirstWhereverItStands) {
  std::vector<float> values(200000, 1e38f);
  std::vector<bfloat16> halves(values.size(), bfloat16{0x7f7f});
  EXPECT_EQ(first_not_finite(values.data(), DType::kF32, 200000), -1);
  EXPECT_EQ(first_not_finite(halves.data(), DType::kBF16, 200000), -1);
  EXPECT_EQ(first_not_finite(values.data(), DType::kF32, 0), -1);
  for (const int64_t place : {199999, 131072, 65535, 3, 0}) {
    values[place] = place % 2 == 0 ? -INFINITY : NAN;
    halves[place] = to_bfloat16(values[place]);
    EXPECT_EQ(first_not_finite(values.data(), DType::kF32, 200000), place);
    EXPECT_EQ(first_not_finite(halves.data(), DType::kBF16, 200000), place);
  }
  expect_runtime_error([&] { first_not_finite(values.data(), DType::kI32, 1); },
                       "elements of f32 or bf16 can be checked to be finite, not of i32");
}

}  // namespace
}  // namespace deeptitan
