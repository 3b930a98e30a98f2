#include "ops/rms_norm.h"

#include <gtest/gtest.h>

#include "ops/op_case.h"

namespace deeptitan {
namespace {

TEST(RmsNormOp, RefusesWhatDoesNotFit) {
  OpCase c;
  const Tensor x = c.f32({4, 8});
  const Tensor weight = c.f32({8});
  const auto norm = [&](const Tensor& out, const Tensor& rstd, const Tensor& in, const Tensor& w) {
    return [&c, out, rstd, in, w] { rms_norm(c.ctx, out, rstd, in, w, 1e-6); };
  };
  expect_runtime_error(norm(c.f32({4, 7}), {}, x, weight), "rms_norm: out: expected f32 [4, 8], found f32 [4, 7]");
  expect_runtime_error(norm(c.bf16({4, 8}), {}, x, weight), "rms_norm: out: expected f32 [4, 8], found bf16 [4, 8]");
  expect_runtime_error(norm(x, c.f32({3}), x, weight), "rms_norm: rstd: expected f32 [4], found f32 [3]");
  expect_runtime_error(norm(x, {}, x, c.f32({7})), "rms_norm: weight: expected f32 [8], found f32 [7]");
  expect_runtime_error(norm(x, {}, c.i32({4, 8}), weight), "rms_norm: x: expected f32 or bf16, found i32 [4, 8]");
  norm(x, {}, x, weight)();
}

TEST(RmsNormOp, RefusesTensorsOfAnotherDevice) {
  OpCase c;
  const Tensor x = c.f32({4, 8});
  expect_runtime_error([&] { rms_norm(c.ctx, x, {}, x, c.on_gpu({8}), 1e-6); },
                       "rms_norm: expected tensors on cpu, found f32 [8] on cuda:0");
  ExecutionContext gpu = c.gpu_context();
  expect_runtime_error(
      [&] {
        rms_norm(gpu, c.on_gpu({4, 8}), {}, x, c.on_gpu({8}), 1e-6);
      },
      "rms_norm: expected tensors on cuda:0, found f32 [4, 8] on cpu");
}

TEST(RmsNormOp, BackwardsRefuseWhatDoesNotFit) {
  OpCase c;
  const Tensor x = c.bf16({4, 8});
  const Tensor rstd = c.f32({4});
  const Tensor weight = c.f32({8});
  expect_runtime_error(
      [&] {
        rms_norm_backward_input(c.ctx, c.bf16({4, 9}), x, x, rstd, weight, false);
      },
      "rms_norm_backward_input: d_x: expected bf16 [4, 8], found bf16 [4, 9]");
  expect_runtime_error(
      [&] {
        rms_norm_backward_input(c.ctx, x, c.f32({4, 8}), x, rstd, weight, false);
      },
      "rms_norm_backward_input: d_out: expected bf16 [4, 8], found f32 [4, 8]");
  expect_runtime_error([&] { rms_norm_backward_weight(c.ctx, c.bf16({8}), x, x, rstd, true); },
                       "rms_norm_backward_weight: d_weight: expected f32 [8], found bf16 [8]");
  expect_runtime_error([&] { rms_norm_backward_weight(c.ctx, weight, x, x, c.f32({8}), true); },
                       "rms_norm_backward_weight: rstd: expected f32 [4], found f32 [8]");
  expect_runtime_error([&] { add_rms_norm(c.ctx, x, x, rstd, x.columns(0, 4), x.columns(0, 4), c.f32({4}), 1e-6); },
                       "add_rms_norm: sum: expected bf16 [4, 4], found bf16 [4, 8]");
}

#ifndef DT_CUDA
TEST(RmsNormOp, ABuildWithoutCudaSaysSo) {
  OpCase c;
  ExecutionContext gpu = c.gpu_context();
  const Tensor x = c.on_gpu({4, 8});
  expect_usage_error([&] { rms_norm(gpu, x, {}, x, c.on_gpu({8}), 1e-6); },
                     "rms_norm was asked for on cuda:0, and this build of deeptitan has no CUDA; use cpu, or build the "
                     "preset cuda (cmake --preset cuda)");
}
#endif

}  // namespace
}  // namespace deeptitan
