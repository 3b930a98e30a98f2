#include "kernels/cpu/elementwise/elementwise.h"

#include <limits>

#include "kernels/cpu/vector_kernel_test.h"

namespace deeptitan::cpu {
namespace {

constexpr int64_t kSizes[] = {0, 1, 7, 16, 33, 1029, 70001};

template <typename T>
class Elementwise : public ::testing::Test {};
TYPED_TEST_SUITE(Elementwise, ElementTypes);

// One operation and one rounding: equal bits.
TYPED_TEST(Elementwise, EveryOperationRoundsOnce) {
  using T = TypeParam;
  on_each_instruction_set([] {
    for (const int64_t n : kSizes) {
      const auto a = random_normal<T>(n, 1), b = random_normal<T>(n, 2);
      const auto floats = random_normal<float>(n, 3);
      std::vector<T> sum, scaled;
      std::vector<float> float_sum;
      for (size_t i = 0; i < a.size(); ++i) {
        sum.push_back(rounded<T>(to_float(a[i]) + to_float(b[i])));
        scaled.push_back(rounded<T>(to_float(a[i]) * 0.3f));
        float_sum.push_back(floats[i] + to_float(a[i]));
      }
      std::vector<T> out(a.size());
      add(out.data(), a.data(), b.data(), n);
      expect_same_bits(out, sum);
      out = a;
      accumulate(out.data(), b.data(), n);
      expect_same_bits(out, sum);
      out = b;
      add(out.data(), a.data(), out.data(), n);
      expect_same_bits(out, sum);
      out = a;
      scale(out.data(), 0.3f, n);
      expect_same_bits(out, scaled);
      std::vector<float> float_out = floats;
      add_to_float(float_out.data(), a.data(), n);
      expect_same_bits(float_out, float_sum);
      fill_zero(out.data(), n);
      expect_same_bits(out, std::vector<T>(a.size()));
    }
  });
}

TEST(Convert, RoundsAsToBfloat16) {
  on_each_instruction_set([] {
    // Ties, just above and below them, largest, subnormal, infinite, and NaN whose payload is in the dropped half.
    std::vector<float> values = {0.0f,     -0.0f,  1.0f + 1.0f / 256, 1.0f + 3.0f / 256, 1.0f + 1.01f / 256, 3.4e38f,
                                 -3.4e38f, 1e-40f, -1e-45f,           HUGE_VALF,         -HUGE_VALF};
    for (const uint32_t bits : {0x7f800001u, 0xff80ffffu, 0x7fffffffu, 0xffffffffu}) {
      float nan;
      std::memcpy(&nan, &bits, sizeof nan);
      values.push_back(nan);
    }
    const auto more = random_normal<float>(1000, 4);
    values.insert(values.end(), more.begin(), more.end());
    std::vector<bfloat16> expected, out(values.size());
    for (const float value : values) expected.push_back(to_bfloat16(value));
    convert(out.data(), values.data(), static_cast<int64_t>(values.size()));
    expect_same_bits(out, expected);
  });
}

TEST(Convert, WidensEveryBfloat16) {
  on_each_instruction_set([] {
    std::vector<bfloat16> values;
    std::vector<float> expected;
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
      values.push_back({static_cast<uint16_t>(bits)});
      expected.push_back(to_float(values.back()));
    }
    std::vector<float> out(values.size());
    convert(out.data(), values.data(), static_cast<int64_t>(values.size()));
    expect_same_bits(out, expected);
  });
}

TEST(Convert, KeepsToItsColumns) {
  on_each_instruction_set([] {
    const int64_t rows = 300, columns = 131, ld_in = 140, ld_out = 150;
    const auto in = random_normal<float>(rows * ld_in, 5);
    std::vector<bfloat16> out(static_cast<size_t>(rows * ld_out), to_bfloat16(7.0f));
    convert(out.data(), ld_out, in.data(), ld_in, rows, columns);
    std::vector<float> back(in.size(), 9.0f);
    convert(back.data(), ld_in, out.data(), ld_out, rows, columns);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < ld_out; ++c) {
        const float expected = c < columns ? to_float(to_bfloat16(in[static_cast<size_t>(r * ld_in + c)])) : 7.0f;
        ASSERT_EQ(to_float(out[static_cast<size_t>(r * ld_out + c)]), expected);
        if (c < ld_in) {
          ASSERT_EQ(back[static_cast<size_t>(r * ld_in + c)], c < columns ? expected : 9.0f);
        }
      }
    }
  });
}

TEST(CopyRows, KeepsToItsColumns) {
  const int64_t rows = 300, columns = 131, ld_in = 140, ld_out = 150;
  const auto in = random_normal<float>(rows * ld_in, 5);
  std::vector<float> out(static_cast<size_t>(rows * ld_out), 7.0f);
  copy_rows(out.data(), ld_out * 4, in.data(), ld_in * 4, rows, columns * 4);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < ld_out; ++c) {
      ASSERT_EQ(out[static_cast<size_t>(r * ld_out + c)], c < columns ? in[static_cast<size_t>(r * ld_in + c)] : 7.0f);
    }
  }
}

TEST(Convert, EmptyWorkTouchesNothing) {
  convert(static_cast<bfloat16*>(nullptr), 0, static_cast<const float*>(nullptr), 0, 0, 16);
  convert(static_cast<float*>(nullptr), 0, static_cast<const bfloat16*>(nullptr), 0, 4, 0);
}

}  // namespace
}  // namespace deeptitan::cpu
