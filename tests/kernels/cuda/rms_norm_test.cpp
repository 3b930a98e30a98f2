#include "kernels/cuda/norm/rms_norm.h"

#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "kernels/cpu/norm/rms_norm.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {
namespace {

constexpr float kEpsilon = 1e-6f;

template <typename T>
class RmsNorm : public OverElementTypes<T> {};
TYPED_TEST_SUITE(RmsNorm, ElementTypes, ElementName);

TYPED_TEST(RmsNorm, ForwardAndBackwardOfSlices) {
  using T = TypeParam;
  // Odd strides, and strides of whole words with rows of one word to 1024 and more.
  for (const auto& [rows, dim, gap] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 9},
                                       {5, 33, 9},
                                       {300, 576, 9},
                                       {5000, 200, 9},
                                       {7, 8, 8},
                                       {300, 512, 64},
                                       {70, 1000, 16},
                                       {4200, 2048, 0},
                                       {9, 3592, 8},
                                       {20, 7168, 0},
                                       {3, 8200, 8}}) {
    const int64_t ld = dim + gap;
    const auto x = random_elements<T>(rows * ld, 30, 2.0f), d_out = random_elements<T>(rows * ld, 31);
    const auto weight = random_elements<float>(dim, 32);
    auto d_x = random_elements<T>(rows * ld, 33);
    auto d_weight = random_elements<float>(dim, 34);
    std::vector<T> out(rows * ld);
    memset(static_cast<void*>(out.data()), 0xff, out.size() * sizeof(T));
    std::vector<float> rstd(rows);
    DeviceBuffer<T> device_x(x), device_d_out(d_out), device_d_x(d_x), device_out(rows * dim);
    DeviceBuffer<float> device_weight(weight), device_rstd(rows), device_d_weight(d_weight);
    DeviceBuffer<float> workspace(rms_norm_backward_weight_workspace(rows, dim));

    rms_norm(device_out.get(), dim, device_rstd.get(), device_x.get(), ld, device_weight.get(), rows, dim, kEpsilon,
             nullptr);
    cpu::rms_norm(out.data(), dim, rstd.data(), x.data(), ld, weight.data(), rows, dim, kEpsilon);
    out.resize(rows * dim);
    EXPECT_LT(relative_difference(device_out.download(), out), kOrderOfSums<T>);
    EXPECT_LT(relative_difference(device_rstd.download(), rstd), 1e-6);
    rms_norm(device_out.get(), dim, nullptr, device_x.get(), ld, device_weight.get(), rows, dim, kEpsilon, nullptr);
    EXPECT_LT(relative_difference(device_out.download(), out), kOrderOfSums<T>) << "without statistics";

    rms_norm_backward_weight(device_d_weight.get(), device_d_out.get(), ld, device_x.get(), ld, device_rstd.get(), rows,
                             dim, workspace.get(), nullptr);
    std::vector<float> scratch(cpu::rms_norm_backward_weight_workspace(rows, dim));
    cpu::rms_norm_backward_weight(d_weight.data(), d_out.data(), ld, x.data(), ld, rstd.data(), rows, dim,
                                  scratch.data());
    EXPECT_LT(relative_difference(device_d_weight.download(), d_weight), 2e-6);

    for (const bool accumulate : {true, false}) {
      rms_norm_backward_input(device_d_x.get(), ld, device_d_out.get(), ld, device_x.get(), ld, device_rstd.get(),
                              device_weight.get(), rows, dim, accumulate, nullptr);
      cpu::rms_norm_backward_input(d_x.data(), ld, d_out.data(), ld, x.data(), ld, rstd.data(), weight.data(), rows,
                                   dim, accumulate);
      EXPECT_LT(relative_difference(device_d_x.download(), d_x), kOrderOfSums<T>) << accumulate;
    }
  }
}

TYPED_TEST(RmsNorm, AddsTheResidualFirst) {
  using T = TypeParam;
  for (const auto& [rows, dim] : {std::pair<int64_t, int64_t>{70, 515}, {70, 2048}, {33, 104}}) {
    const auto a = random_elements<T>(rows * dim, 35), b = random_elements<T>(rows * dim, 36);
    const auto weight = random_elements<float>(dim, 37);
    std::vector<T> sum(rows * dim), out(rows * dim);
    std::vector<float> rstd(rows);
    cpu::add_rms_norm(sum.data(), out.data(), rstd.data(), a.data(), b.data(), weight.data(), rows, dim, kEpsilon);
    DeviceBuffer<T> device_a(a), device_b(b), device_out(rows * dim);
    DeviceBuffer<float> device_weight(weight), device_rstd(rows);
    add_rms_norm(device_a.get(), device_out.get(), device_rstd.get(), device_a.get(), device_b.get(),
                 device_weight.get(), rows, dim, kEpsilon, nullptr);
    EXPECT_TRUE(same_bytes(device_a.download(), sum));
    EXPECT_LT(relative_difference(device_out.download(), out), kOrderOfSums<T>);
    EXPECT_LT(relative_difference(device_rstd.download(), rstd), 1e-6);
  }
}

}  // namespace
}  // namespace deeptitan::cuda
