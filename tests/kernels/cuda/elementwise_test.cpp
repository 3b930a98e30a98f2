#include "kernels/cuda/elementwise/elementwise.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "kernels/cpu/activation/swiglu.h"
#include "kernels/cpu/bias/bias.h"
#include "kernels/cpu/elementwise/elementwise.h"
#include "kernels/cpu/rope/rope.h"
#include "kernels/cuda/activation/swiglu.h"
#include "kernels/cuda/bias/bias.h"
#include "kernels/cuda/rope/rope.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {
namespace {

template <typename T>
class Elementwise : public OverElementTypes<T> {};
TYPED_TEST_SUITE(Elementwise, ElementTypes, ElementName);

TYPED_TEST(Elementwise, AddHasTheBitsOfTheCpu) {
  using T = TypeParam;
  for (const int64_t n : {1, 31, 4097, 3'000'001}) {
    const auto a = random_elements<T>(n, 1), b = random_elements<T>(n, 2);
    std::vector<T> expected(n);
    cpu::add(expected.data(), a.data(), b.data(), n);
    DeviceBuffer<T> device_a(a), device_b(b), out(n);
    add(out.get(), device_a.get(), device_b.get(), n, nullptr);
    EXPECT_TRUE(same_bytes(out.download(), expected)) << n;
    add(device_a.get(), device_a.get(), device_b.get(), n, nullptr);
    EXPECT_TRUE(same_bytes(device_a.download(), expected)) << n << " in place";
  }
  add(static_cast<T*>(nullptr), static_cast<const T*>(nullptr), static_cast<const T*>(nullptr), 0, nullptr);
}

TEST(ElementwiseRows, AddsRowsOfSlices) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kRows = 31, kColumns = 17, kLdOut = 20, kLdX = 19;
  auto expected = random_elements<bfloat16>(kRows * kLdOut, 14);
  const auto x = random_elements<bfloat16>(kRows * kLdX, 15);
  DeviceBuffer<bfloat16> out(expected), device_x(x);
  add_rows(out.get(), kLdOut, device_x.get(), kLdX, kRows, kColumns, nullptr);
  for (int64_t r = 0; r < kRows; ++r) cpu::accumulate(&expected[r * kLdOut], &x[r * kLdX], kColumns);
  EXPECT_TRUE(same_bytes(out.download(), expected));
}

TYPED_TEST(Elementwise, ConvertRoundsAndWidensSlices) {
  using T = TypeParam;
  constexpr int64_t kRows = 37, kColumns = 45, kLdOut = 50, kLdIn = 61;
  const auto check = [&](auto* in_type) {
    using In = std::remove_pointer_t<decltype(in_type)>;
    auto in = random_elements<In>(kRows * kLdIn, 3);
    if constexpr (std::is_same_v<In, float>) in[1] = std::numeric_limits<float>::quiet_NaN(), in[2] = INFINITY;
    std::vector<T> expected(kRows * kLdOut);
    memset(static_cast<void*>(expected.data()), 0xff, expected.size() * sizeof(T));  // what nobody writes
    for (int64_t r = 0; r < kRows; ++r) {
      if constexpr (std::is_same_v<In, T>) {
        std::copy_n(&in[r * kLdIn], kColumns, &expected[r * kLdOut]);
      } else {
        cpu::convert(&expected[r * kLdOut], &in[r * kLdIn], kColumns);
      }
    }
    DeviceBuffer<In> device_in(in);
    DeviceBuffer<T> out(kRows * kLdOut);
    convert(out.get(), kLdOut, device_in.get(), kLdIn, kRows, kColumns, nullptr);
    EXPECT_TRUE(same_bytes(out.download(), expected));
  };
  check(static_cast<float*>(nullptr));
  check(static_cast<bfloat16*>(nullptr));
}

TYPED_TEST(Elementwise, FindsWhatIsNotFinite) {
  using T = TypeParam;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), INFINITY, -INFINITY, 1.0f}) {
    auto x = random_elements<T>(100'003, 4);
    if constexpr (std::is_same_v<T, float>) {
      x[99'999] = bad;
    } else {
      x[99'999] = to_bfloat16(bad);
    }
    DeviceBuffer<T> device(x);
    DeviceBuffer<int32_t> found(std::vector<int32_t>{0});
    find_not_finite(found.get(), device.get(), 1000, 100, 1000, nullptr);  // its last three elements are not looked at
    EXPECT_EQ(found.download()[0], bad == 1.0f ? 0 : 1) << bad;
  }
}

TYPED_TEST(Elementwise, BiasHasTheBitsOfTheCpu) {
  using T = TypeParam;
  constexpr int64_t kRows = 67, kColumns = 131, kLd = 140;
  auto x = random_elements<T>(kRows * kLd, 5);
  const auto bias = random_elements<float>(kColumns, 6);
  auto d_bias = random_elements<float>(kColumns, 7);
  DeviceBuffer<T> device(x);
  DeviceBuffer<float> device_bias(bias), device_d_bias(d_bias);
  add_bias_backward(device_d_bias.get(), device.get(), kLd, kRows, kColumns, nullptr);
  cpu::add_bias_backward(d_bias.data(), x.data(), kLd, kRows, kColumns);
  EXPECT_TRUE(same_bytes(device_d_bias.download(), d_bias));
  add_bias(device.get(), kLd, device_bias.get(), kRows, kColumns, nullptr);
  cpu::add_bias(x.data(), kLd, bias.data(), kRows, kColumns);
  EXPECT_TRUE(same_bytes(device.download(), x));
}

TYPED_TEST(Elementwise, Swiglu) {
  using T = TypeParam;
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{1, 1}, {3, 77}, {130, 512}}) {
    auto gate_up = random_elements<T>(rows * 2 * width, 8, 3.0f);
    const auto d_out = random_elements<T>(rows * width, 9);
    std::vector<T> expected(rows * width), d_expected(rows * 2 * width);
    DeviceBuffer<T> device(gate_up), out(rows * width), device_d_out(d_out);
    swiglu(out.get(), device.get(), device.get() + width, 2 * width, rows, width, nullptr);
    cpu::swiglu(expected.data(), gate_up.data(), gate_up.data() + width, 2 * width, rows, width);
    EXPECT_LT(relative_difference(out.download(), expected), kOrderOfSums<T>);
    // The gradients take the place of the inputs.
    swiglu_backward(device.get(), device.get() + width, 2 * width, device_d_out.get(), device.get(),
                    device.get() + width, 2 * width, rows, width, nullptr);
    cpu::swiglu_backward(d_expected.data(), d_expected.data() + width, 2 * width, d_out.data(), gate_up.data(),
                         gate_up.data() + width, 2 * width, rows, width);
    EXPECT_LT(relative_difference(device.download(), d_expected), kOrderOfSums<T>);
  }
}

TYPED_TEST(Elementwise, GroupedSwigluLeavesPadding) {
  using T = TypeParam;
  for (const int64_t width : {130, 132, 1408}) {
    constexpr int64_t kRows = 200;
    const std::vector<int32_t> first = {0, 8, 8, 152, 192};
    const std::vector<int32_t> count = {5, 0, 144, 33, 1};
    const auto gate_up = random_elements<T>(2 * kRows * width, 8, 3.0f);
    const auto d_out = random_elements<T>(kRows * width, 9);
    const auto before = random_elements<T>(kRows * width, 10), d_before = random_elements<T>(2 * kRows * width, 11);
    auto expected = before, d_expected = d_before;
    const GroupRows on_host{first.data(), count.data(), 5};
    cpu::grouped_swiglu(expected.data(), gate_up.data(), gate_up.data() + width, 2 * width, on_host, width);
    cpu::grouped_swiglu_backward(d_expected.data(), d_expected.data() + width, 2 * width, d_out.data(), gate_up.data(),
                                 gate_up.data() + width, 2 * width, on_host, width);
    DeviceBuffer<int32_t> device_first(first), device_count(count);
    const GroupRows groups{device_first.get(), device_count.get(), 5};
    DeviceBuffer<T> device(gate_up), device_d_out(d_out), out(before), d_gate_up(d_before);
    grouped_swiglu(out.get(), device.get(), device.get() + width, 2 * width, groups, kRows, width, nullptr);
    grouped_swiglu_backward(d_gate_up.get(), d_gate_up.get() + width, 2 * width, device_d_out.get(), device.get(),
                            device.get() + width, 2 * width, groups, kRows, width, nullptr);
    EXPECT_LT(relative_difference(out.download(), expected), kOrderOfSums<T>);
    EXPECT_LT(relative_difference(d_gate_up.download(), d_expected), kOrderOfSums<T>);
  }
}

// Also of widths that are read four at a time; a row without a position is left as it is.
TYPED_TEST(Elementwise, RopeHasTheBitsOfTheCpu) {
  using T = TypeParam;
  constexpr int64_t kRows = 19, kPositions = 40;
  struct Heads {
    int64_t heads, width, first, dim, gap;
  };
  // Of whole words or not, and as many heads as a thread takes, fewer and more.
  for (const auto& [heads, width, first, dim, gap] : {Heads{3, 52, 20, 30, 7},
                                                      {3, 52, 20, 32, 8},
                                                      {3, 52, 20, 4, 0},
                                                      {3, 52, 20, 30, 8},
                                                      {1, 96, 32, 64, 0},
                                                      {5, 48, 16, 32, 8},
                                                      {16, 192, 128, 64, 0},
                                                      {7, 40, 24, 8, 16}}) {
    const int64_t ld = heads * width + gap;
    const auto cos = random_elements<float>(kPositions * dim / 2, 10);
    const auto sin = random_elements<float>(kPositions * dim / 2, 11);
    std::vector<int32_t> positions(kRows);
    for (int64_t r = 0; r < kRows; ++r) positions[r] = static_cast<int32_t>(random_bits(12, r) % kPositions);
    positions[7] = -1;
    DeviceBuffer<float> device_cos(cos), device_sin(sin);
    DeviceBuffer<int32_t> device_positions(positions);
    for (const bool halves : {false, true}) {
      for (const bool inverse : {false, true}) {
        auto x = random_elements<T>(kRows * ld, 13);
        DeviceBuffer<T> device(x);
        rope_rotate(device.get() + first, ld, heads, width, dim, device_cos.get(), device_sin.get(),
                    device_positions.get(), kRows, inverse, halves, nullptr);
        cpu::rope_rotate(x.data() + first, ld, heads, width, dim, cos.data(), sin.data(), positions.data(), kRows,
                         inverse, halves ? cpu::RopePairs::kHalves : cpu::RopePairs::kNeighbours);
        EXPECT_TRUE(same_bytes(device.download(), x)) << heads << " of " << dim << halves << inverse;
      }
    }
  }
}

}  // namespace
}  // namespace deeptitan::cuda
