#include "core/tensor.h"

#include <array>

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

TEST(Tensor, TheCpuIsToldWhatItCannotRead) {
  std::array<float, 6> values{};
  const Tensor here(values.data(), DType::kF32, {2, 3});
  EXPECT_EQ(here.host<float>(), values.data());
  expect_runtime_error([&] { here.host<int32_t>("ids"); }, "ids: expected i32, found f32 [2, 3]");
  const Tensor there(values.data(), DType::kF32, {2, 3}, {DeviceKind::kCuda, 1});
  expect_runtime_error([&] { there.host<float>("logits"); },
                       "logits: the CPU cannot read f32 [2, 3] on cuda:1; copy it to the host's memory first");
  expect_runtime_error([&] { there.rows(1, 2).columns(0, 1).host<float>(); },
                       "a tensor: the CPU cannot read f32 [1, 1] on cuda:1; copy it to the host's memory first");
}

TEST(Tensor, KernelsTakeItsAddressWhereverItLies) {
  std::array<float, 6> values{};
  const Tensor there(values.data(), DType::kF32, {2, 3}, {DeviceKind::kCuda, 0});
  EXPECT_EQ(there.raw(), values.data());
  EXPECT_EQ(there.raw<float>(), values.data());
  expect_runtime_error([&] { there.raw<bfloat16>(); }, "expected a tensor of bf16, found f32 [2, 3] on cuda:0");
}

TEST(Tensor, ViewsStayOnTheirDevice) {
  std::array<float, 6> values{};
  const Device gpu{DeviceKind::kCuda, 0};
  const Tensor there(values.data(), DType::kF32, {2, 3}, gpu);
  EXPECT_EQ(there.rows(0, 1).device(), gpu);
  EXPECT_EQ(there.columns(1, 3).device(), gpu);
  EXPECT_EQ(there.reshape({3, 2}).device(), gpu);
}

}  // namespace
}  // namespace deeptitan
