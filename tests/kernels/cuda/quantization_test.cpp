#include "kernels/cuda/quantization/quantization.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/permute/permute.h"
#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/test_sizes.h"
#include "kernels/reference/quantization.h"

namespace deeptitan::cuda {
namespace {

enum class Values { kNormal, kWild };  // kWild: with NaN, infinities, zeros, subnormal and huge values

std::vector<bfloat16> random_bf16(size_t count, unsigned seed, Values kind) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<bfloat16> values(count);
  const float infinity = std::numeric_limits<float>::infinity();
  const float special[] = {std::nanf(""), -std::nanf(""), infinity, -infinity, 0.0f, -0.0f, 1e-40f, 3e38f};
  for (bfloat16& value : values) {
    value = to_bfloat16(normal(random) * std::exp(3 * normal(random)));
    if (kind == Values::kWild && random() % 40 == 0) value = to_bfloat16(special[random() % 8]);
  }
  return values;
}

constexpr QuantizeOptions kAllOptions[] = {{ScaleKind::kFloat, ScaleLayout::kRowMajor},
                                           {ScaleKind::kFloat, ScaleLayout::kColumnMajor},
                                           {ScaleKind::kPowerOfTwo, ScaleLayout::kRowMajor},
                                           {ScaleKind::kPowerOfTwo, ScaleLayout::kColumnMajor}};

/// Scales of the CPU in a buffer whose padding looks as DeviceBuffer leaves it.
std::vector<float> scales_of_size(int64_t count) {
  std::vector<float> scale(count);
  if (count > 0) memset(scale.data(), 0xff, count * sizeof(float));
  return scale;
}

template <typename T>
bool same_values(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    const float x = to_float(a[i]), y = to_float(b[i]);
    if (!(x == y || (std::isnan(x) && std::isnan(y)))) return false;
  }
  return true;
}

template <typename T>
void expect_dequantized_rows(DeviceBuffer<float8_e4m3>& q, DeviceBuffer<float>& scale, int64_t rows, int64_t hidden,
                             ScaleLayout layout) {
  std::vector<T> expected(rows * hidden);
  const std::vector<float8_e4m3> host_q = q.download();
  const std::vector<float> host_scale = scale.download();
  cpu::dequantize_rows(expected.data(), host_q.data(), host_scale.data(), rows, hidden, layout);
  DeviceBuffer<T> out(expected.size());
  dequantize_rows(out.get(), q.get(), scale.get(), rows, hidden, layout, nullptr);
  ASSERT_TRUE(same_values(out.download(), expected));
}

TEST(CudaQuantization, EveryBf16ValueRoundsAsOnTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  std::vector<bfloat16> x(65536);
  // An order that puts large and small magnitudes into each group.
  for (uint32_t i = 0; i < 65536; ++i) x[i] = {static_cast<uint16_t>(i * 40503u)};
  for (const QuantizeOptions& options : kAllOptions) {
    std::vector<float8_e4m3> expected(x.size());
    std::vector<float> expected_scale = scales_of_size(scale_count(16, 4096, options.layout));
    cpu::quantize_rows(expected.data(), expected_scale.data(), x.data(), 16, 4096, options);
    DeviceBuffer<bfloat16> device_x(x);
    DeviceBuffer<float8_e4m3> q(x.size());
    DeviceBuffer<float> scale(expected_scale.size());
    quantize_rows(q.get(), scale.get(), device_x.get(), 16, 4096, options, nullptr);
    ASSERT_TRUE(same_bytes(q.download(), expected));
    ASSERT_TRUE(same_bytes(scale.download(), expected_scale));
  }
}

TEST(CudaQuantization, RowsEqualTheCpuBitForBit) {
  DT_SKIP_WITHOUT_GPU();
  unsigned seed = 0;
  for (const int64_t rows : {0, 1, 33}) {
    for (const int64_t hidden : {1, 127, 128, 1032, 1031, 7168}) {
      if (only_small_sizes() && hidden > 1032) continue;
      for (const Values kind : {Values::kNormal, Values::kWild}) {
        const std::vector<bfloat16> x = random_bf16(rows * hidden, ++seed, kind);
        DeviceBuffer<bfloat16> device_x(x);
        std::vector<float8_e4m3> expected(x.size());
        DeviceBuffer<float8_e4m3> q(x.size());
        for (const QuantizeOptions& options : kAllOptions) {
          std::vector<float> expected_scale = scales_of_size(scale_count(rows, hidden, options.layout));
          DeviceBuffer<float> scale(expected_scale.size());
          cpu::quantize_rows(expected.data(), expected_scale.data(), x.data(), rows, hidden, options);
          quantize_rows(q.get(), scale.get(), device_x.get(), rows, hidden, options, nullptr);
          ASSERT_TRUE(same_bytes(q.download(), expected)) << rows << " x " << hidden;
          ASSERT_TRUE(same_bytes(scale.download(), expected_scale)) << rows << " x " << hidden;
          expect_dequantized_rows<float>(q, scale, rows, hidden, options.layout);
          expect_dequantized_rows<bfloat16>(q, scale, rows, hidden, options.layout);
        }
        std::vector<float> expected_scale(rows);
        DeviceBuffer<float> scale(rows);
        cpu::quantize_whole_rows(expected.data(), expected_scale.data(), x.data(), rows, hidden, ScaleKind::kFloat);
        quantize_whole_rows(q.get(), scale.get(), device_x.get(), rows, hidden, ScaleKind::kFloat, nullptr);
        ASSERT_TRUE(same_bytes(q.download(), expected)) << rows << " x " << hidden;
        ASSERT_EQ(scale.download(), expected_scale);
      }
    }
  }
}

TEST(CudaQuantization, SwigluEqualsTheCpuBitForBit) {
  DT_SKIP_WITHOUT_GPU();
  for (const int64_t width : {128, 1408, 333}) {
    const int64_t rows = 19;
    for (const Values kind : {Values::kNormal, Values::kWild}) {
      const std::vector<bfloat16> gate_up = random_bf16(rows * 2 * width, 4, kind);
      DeviceBuffer<bfloat16> device_gate_up(gate_up);
      for (const QuantizeOptions& options : kAllOptions) {
        std::vector<float8_e4m3> expected(rows * width);
        std::vector<float> expected_scale = scales_of_size(scale_count(rows, width, options.layout));
        DeviceBuffer<float8_e4m3> q(expected.size());
        DeviceBuffer<float> scale(expected_scale.size());
        cpu::quantize_swiglu(expected.data(), expected_scale.data(),
                             {gate_up.data(), gate_up.data() + width, 2 * width}, rows, width, options);
        quantize_swiglu(q.get(), scale.get(), {device_gate_up.get(), device_gate_up.get() + width, 2 * width}, rows,
                        width, options, nullptr);
        ASSERT_TRUE(same_bytes(q.download(), expected)) << width;
        ASSERT_TRUE(same_bytes(scale.download(), expected_scale)) << width;
      }
    }
  }
}

TEST(CudaQuantization, PermutedRowsEqualTheCpuBitForBit) {
  DT_SKIP_WITHOUT_GPU();
  const int64_t tokens = 40;
  const int top_k = 3;
  std::mt19937 random(9);
  std::vector<int32_t> expert(tokens * top_k), counts(4, 0), group_offset(5), row_of_slot(tokens * top_k);
  for (int32_t& e : expert) ++counts[e = static_cast<int32_t>(random() % 4)];
  const int64_t rows = cpu::max_sorted_rows(tokens * top_k, 4, 16);
  std::vector<int32_t> slot_of_row(rows);
  cpu::sort_slots(row_of_slot.data(), slot_of_row.data(), group_offset.data(), expert.data(), counts.data(),
                  {tokens * top_k, 4, 16, rows});
  DeviceBuffer<int32_t> device_row_of_slot(row_of_slot), device_slot_of_row(slot_of_row);
  const RowMap host{row_of_slot.data(), slot_of_row.data(), tokens, rows, top_k};
  const RowMap device{device_row_of_slot.get(), device_slot_of_row.get(), tokens, rows, top_k};
  for (const int64_t hidden : {128, 2048, 9000, 77}) {
    if (only_small_sizes() && hidden > 2048) continue;
    const std::vector<bfloat16> x = random_bf16(tokens * hidden, 5, Values::kWild);
    DeviceBuffer<bfloat16> device_x(x);
    for (const QuantizeOptions& options : kAllOptions) {
      std::vector<float8_e4m3> expected(rows * hidden);
      std::vector<float> expected_scale = scales_of_size(scale_count(rows, hidden, options.layout));
      DeviceBuffer<float8_e4m3> q(expected.size());
      DeviceBuffer<float> scale(expected_scale.size());
      cpu::quantize_permuted_rows(expected.data(), expected_scale.data(), x.data(), host, hidden, options);
      DeviceBuffer<char> workspace(quantize_permuted_rows_workspace_bytes(tokens, hidden, options));
      quantize_permuted_rows(q.get(), scale.get(), device_x.get(), device, hidden, options, workspace.get(), nullptr);
      ASSERT_TRUE(same_bytes(q.download(), expected)) << hidden;
      ASSERT_TRUE(same_bytes(scale.download(), expected_scale)) << hidden;
    }
  }
}

TEST(CudaQuantization, BlocksEqualTheCpuBitForBit) {
  DT_SKIP_WITHOUT_GPU();
  struct Shape {
    int64_t matrices, rows, columns;
  };
  for (const Shape& s : {Shape{1, 128, 128}, {2, 1, 1}, {3, 130, 257}, {2, 300, 64}, {2, 1408, 2048}, {0, 5, 5}}) {
    if (only_small_sizes() && s.rows > 300) continue;
    for (const Values values : {Values::kNormal, Values::kWild}) {
      for (const ScaleKind kind : {ScaleKind::kFloat, ScaleKind::kPowerOfTwo}) {
        const std::vector<bfloat16> x = random_bf16(s.matrices * s.rows * s.columns, 6, values);
        std::vector<float> wide;
        for (const bfloat16 value : x) wide.push_back(to_float(value));
        const int64_t scales = s.matrices * quantization_groups(s.rows) * quantization_groups(s.columns);
        std::vector<float8_e4m3> expected(x.size());
        std::vector<float> expected_scale(scales);
        cpu::quantize_blocks(expected.data(), expected_scale.data(), x.data(), s.matrices, s.rows, s.columns, kind);
        DeviceBuffer<bfloat16> device_x(x);
        DeviceBuffer<float> device_wide(wide), scale(scales), scale_of_wide(scales), out_f32(x.size());
        DeviceBuffer<float8_e4m3> q(x.size()), q_of_wide(x.size());
        quantize_blocks(q.get(), scale.get(), device_x.get(), s.matrices, s.rows, s.columns, kind, nullptr);
        quantize_blocks(q_of_wide.get(), scale_of_wide.get(), device_wide.get(), s.matrices, s.rows, s.columns, kind,
                        nullptr);
        ASSERT_TRUE(same_bytes(q.download(), expected)) << s.rows << " x " << s.columns;
        ASSERT_EQ(scale.download(), expected_scale);
        ASSERT_TRUE(same_bytes(q_of_wide.download(), expected));
        ASSERT_EQ(scale_of_wide.download(), expected_scale);
        std::vector<float> expected_f32(x.size());
        cpu::dequantize_blocks(expected_f32.data(), expected.data(), expected_scale.data(), s.matrices, s.rows,
                               s.columns);
        dequantize_blocks(out_f32.get(), q.get(), scale.get(), s.matrices, s.rows, s.columns, nullptr);
        ASSERT_TRUE(same_values(out_f32.download(), expected_f32));
      }
    }
  }
}

}  // namespace
}  // namespace deeptitan::cuda
