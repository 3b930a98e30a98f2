#include "kernels/reference/quantization.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "kernels/cpu/permute/permute.h"

namespace deeptitan::cpu {
namespace {

std::vector<bfloat16> random_bf16(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<bfloat16> values(count);
  for (bfloat16& value : values) value = to_bfloat16(normal(random) * std::exp(3 * normal(random)));
  return values;
}

/// The definition, in double where it may be: the scale, and the e4m3 value nearest to x * 448 / amax.
double reference_scale(double amax, ScaleKind kind) {
  const double scale = std::max(amax, 0x1p-100) / 448;
  return kind == ScaleKind::kFloat ? scale : std::exp2(std::ceil(std::log2(scale)));
}

void expect_group(const float8_e4m3* q, float scale, const std::vector<double>& x, ScaleKind kind) {
  double amax = 0;
  for (double value : x) {
    if (std::isfinite(value)) amax = std::max(amax, std::abs(value));
  }
  const double expected = reference_scale(amax, kind);
  ASSERT_NEAR(scale, expected, expected * 1e-7);
  if (kind == ScaleKind::kPowerOfTwo) {
    ASSERT_EQ(std::exp2(std::round(std::log2(scale))), scale);
  }
  for (size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(x[i])) {
      ASSERT_EQ(q[i].bits, 0x7f);
      continue;
    }
    // Half a unit of three mantissa bits, or of the smallest subnormal, and the rounding of the fp32 product.
    const double exact = x[i] / expected;
    const double step = std::max(std::abs(exact) / 16, 0x1p-10);
    ASSERT_NEAR(to_float(q[i]), exact, step * 1.00001);
  }
}

TEST(Quantization, RoundsAsTheCoreDoes) {
  std::vector<bfloat16> x(65536);
  for (uint32_t bits = 0; bits < 65536; ++bits) x[bits] = {static_cast<uint16_t>(bits)};
  std::vector<float8_e4m3> q(x.size());
  std::vector<float> scale(512);
  quantize_rows(q.data(), scale.data(), x.data(), 1, 65536, {});
  for (size_t group = 0; group < 512; ++group) {
    float amax = 0;
    for (size_t i = group * 128; i < group * 128 + 128; ++i) {
      if (std::isfinite(to_float(x[i]))) amax = std::max(amax, std::abs(to_float(x[i])));
    }
    const GroupScale expected = group_scale(amax, ScaleKind::kFloat);
    ASSERT_EQ(scale[group], expected.scale);
    for (size_t i = group * 128; i < group * 128 + 128; ++i) {
      const float value = to_float(x[i]);
      const uint8_t bits = std::isfinite(value) ? to_float8_e4m3(value * expected.inverse).bits : 0x7f;
      ASSERT_EQ(q[i].bits, bits) << value;
    }
  }
}

TEST(Quantization, RowsMatchTheDefinition) {
  for (const int64_t rows : {0, 1, 5}) {
    for (const int64_t hidden : {1, 128, 130, 1031}) {
      for (const ScaleKind kind : {ScaleKind::kFloat, ScaleKind::kPowerOfTwo}) {
        for (const ScaleLayout layout : {ScaleLayout::kRowMajor, ScaleLayout::kColumnMajor}) {
          const std::vector<bfloat16> x = random_bf16(rows * hidden, 1);
          std::vector<float8_e4m3> q(x.size());
          std::vector<float> scale(scale_count(rows, hidden, layout), -1.0f);
          quantize_rows(q.data(), scale.data(), x.data(), rows, hidden, {kind, layout});
          const int64_t groups = quantization_groups(hidden);
          std::vector<float> back(x.size());
          dequantize_rows(back.data(), q.data(), scale.data(), rows, hidden, layout);
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t g = 0; g < groups; ++g) {
              const int64_t begin = r * hidden + g * 128;
              const int64_t end = r * hidden + std::min(hidden, g * 128 + 128);
              std::vector<double> values;
              for (int64_t i = begin; i < end; ++i) values.push_back(to_float(x[i]));
              const float s =
                  layout == ScaleLayout::kRowMajor ? scale[r * groups + g] : scale[g * ((rows + 3) / 4 * 4) + r];
              expect_group(q.data() + begin, s, values, kind);
              for (int64_t i = begin; i < end; ++i) ASSERT_EQ(back[i], to_float(q[i]) * s);
            }
          }
          for (int64_t g = 0; layout == ScaleLayout::kColumnMajor && g < groups; ++g) {
            for (int64_t r = rows; r < scale_stride(rows); ++r) ASSERT_EQ(scale[g * scale_stride(rows) + r], -1.0f);
          }
        }
      }
    }
  }
}

TEST(Quantization, BlocksMatchTheDefinition) {
  const int64_t matrices = 2;
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{128, 128}, {1, 1}, {130, 257}, {300, 64}}) {
    for (const ScaleKind kind : {ScaleKind::kFloat, ScaleKind::kPowerOfTwo}) {
      const std::vector<bfloat16> x = random_bf16(matrices * rows * columns, 2);
      std::vector<float> wide;
      for (bfloat16 value : x) wide.push_back(to_float(value));
      const int64_t block_rows = quantization_groups(rows);
      const int64_t block_columns = quantization_groups(columns);
      std::vector<float8_e4m3> q(x.size()), q_of_wide(x.size());
      std::vector<float> scale(matrices * block_rows * block_columns), scale_of_wide(scale.size());
      quantize_blocks(q.data(), scale.data(), x.data(), matrices, rows, columns, kind);
      quantize_blocks(q_of_wide.data(), scale_of_wide.data(), wide.data(), matrices, rows, columns, kind);
      EXPECT_EQ(scale, scale_of_wide);
      EXPECT_EQ(0, memcmp(q.data(), q_of_wide.data(), q.size()));
      std::vector<bfloat16> back(x.size());
      dequantize_blocks(back.data(), q.data(), scale.data(), matrices, rows, columns);
      for (int64_t m = 0; m < matrices; ++m) {
        for (int64_t block = 0; block < block_rows * block_columns; ++block) {
          std::vector<double> values;
          std::vector<float8_e4m3> rounded;
          const float s = scale[m * block_rows * block_columns + block];
          const int64_t row = block / block_columns * 128;
          const int64_t column = block % block_columns * 128;
          for (int64_t r = row; r < std::min(rows, row + 128); ++r) {
            for (int64_t c = column; c < std::min(columns, column + 128); ++c) {
              const int64_t i = (m * rows + r) * columns + c;
              values.push_back(to_float(x[i]));
              rounded.push_back(q[i]);
              ASSERT_EQ(back[i].bits, to_bfloat16(to_float(q[i]) * s).bits);
            }
          }
          expect_group(rounded.data(), s, values, kind);
        }
      }
    }
  }
}

TEST(Quantization, WholeRowsMatchTheDefinition) {
  for (const int64_t hidden : {1, 128, 517}) {
    const std::vector<bfloat16> x = random_bf16(3 * hidden, 8);
    std::vector<float8_e4m3> q(x.size());
    std::vector<float> scale(3);
    quantize_whole_rows(q.data(), scale.data(), x.data(), 3, hidden, ScaleKind::kFloat);
    for (int64_t r = 0; r < 3; ++r) {
      std::vector<double> values;
      for (int64_t i = r * hidden; i < (r + 1) * hidden; ++i) values.push_back(to_float(x[i]));
      expect_group(q.data() + r * hidden, scale[r], values, ScaleKind::kFloat);
    }
  }
}

TEST(Quantization, NanAndInfinityStayVisibleAndAlone) {
  std::vector<bfloat16> x(128, to_bfloat16(2.0f));
  x[3] = to_bfloat16(std::nanf(""));
  x[4] = to_bfloat16(std::numeric_limits<float>::infinity());
  x[5] = to_bfloat16(-std::numeric_limits<float>::infinity());
  std::vector<float8_e4m3> q(128);
  float scale = 0;
  quantize_rows(q.data(), &scale, x.data(), 1, 128, {});
  EXPECT_EQ(scale, 2.0f / 448.0f);
  for (int i = 0; i < 128; ++i) EXPECT_EQ(q[i].bits, i >= 3 && i <= 5 ? 0x7f : 0x7e);
  std::vector<float> back(128);
  dequantize_rows(back.data(), q.data(), &scale, 1, 128, ScaleLayout::kRowMajor);
  EXPECT_TRUE(std::isnan(back[4]));
  EXPECT_EQ(back[0], 2.0f);
}

TEST(Quantization, ZerosAndTinyAndHugeValues) {
  for (const float value : {0.0f, 1e-38f, 3e38f}) {
    const std::vector<bfloat16> x(128, to_bfloat16(value));
    for (const ScaleKind kind : {ScaleKind::kFloat, ScaleKind::kPowerOfTwo}) {
      std::vector<float8_e4m3> q(128);
      std::vector<float> back(128);
      float scale = 0;
      quantize_rows(q.data(), &scale, x.data(), 1, 128, {kind, ScaleLayout::kRowMajor});
      dequantize_rows(back.data(), q.data(), &scale, 1, 128, ScaleLayout::kRowMajor);
      EXPECT_GT(scale, 0x1p-126f);
      EXPECT_NEAR(back[0], to_float(x[0]), std::max(std::abs(to_float(x[0])) / 16, 1e-30f));
    }
  }
}

TEST(Quantization, SwigluMatchesTheDefinition) {
  const int64_t rows = 3;
  const int64_t width = 200;
  const std::vector<bfloat16> gate_up = random_bf16(rows * 2 * width, 4);
  std::vector<float8_e4m3> q(rows * width);
  std::vector<float> scale(rows * 2);
  quantize_swiglu(q.data(), scale.data(), {gate_up.data(), gate_up.data() + width, 2 * width}, rows, width, {});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < 2; ++g) {
      std::vector<double> values;
      for (int64_t c = g * 128; c < std::min(width, g * 128 + 128); ++c) {
        const double gate = to_float(gate_up[r * 2 * width + c]);
        values.push_back(gate / (1 + std::exp(-gate)) * to_float(gate_up[r * 2 * width + width + c]));
      }
      expect_group(q.data() + r * width + g * 128, scale[r * 2 + g], values, ScaleKind::kFloat);
    }
  }
}

TEST(Quantization, PermutedRowsEqualPermuteThenQuantize) {
  const int64_t hidden = 333;
  const std::vector<int32_t> row_of_slot{4, 0, 1, 5};
  const std::vector<int32_t> slot_of_row{1, 2, -1, -1, 0, 3};
  const RowMap map{row_of_slot.data(), slot_of_row.data(), 2, 6, 2};
  const std::vector<bfloat16> x = random_bf16(2 * hidden, 5);
  std::vector<bfloat16> permuted(6 * hidden);
  permute_rows(permuted.data(), x.data(), map, hidden);
  for (const ScaleLayout layout : {ScaleLayout::kRowMajor, ScaleLayout::kColumnMajor}) {
    std::vector<float8_e4m3> q(6 * hidden), expected(6 * hidden);
    std::vector<float> scale(scale_count(6, hidden, layout)), expected_scale(scale);
    quantize_permuted_rows(q.data(), scale.data(), x.data(), map, hidden, {ScaleKind::kFloat, layout});
    quantize_rows(expected.data(), expected_scale.data(), permuted.data(), 6, hidden, {ScaleKind::kFloat, layout});
    EXPECT_EQ(scale, expected_scale);
    EXPECT_EQ(0, memcmp(q.data(), expected.data(), q.size()));
  }
}

}  // namespace
}  // namespace deeptitan::cpu
