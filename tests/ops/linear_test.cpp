#include "ops/linear.h"

#include <gtest/gtest.h>

#include "ops/op_case.h"

namespace deeptitan {
namespace {

PreparedWeight prepared(int64_t groups, BackwardLayout backward, Arena& arena) {
  PreparedWeight weight;
  weight.groups = groups;
  weight.outputs = 6;
  weight.inputs = 8;
  weight.backward_layout = backward;
  plan_prepared_weight(weight, arena);
  return weight;
}

TEST(LinearOps, RefuseWhatDoesNotFit) {
  OpCase c;
  Arena arena("prepared");
  const PreparedWeight weight = prepared(1, BackwardLayout::kNone, arena);
  const Tensor x = c.f32({4, 8});
  expect_runtime_error(
      [&] {
        linear(c.ctx, c.f32({4, 5}), x, weight);
      },
      "linear: out: expected f32 [4, 6], found f32 [4, 5]");
  expect_runtime_error(
      [&] {
        linear(c.ctx, c.f32({4, 6}), c.bf16({4, 8}), weight);
      },
      "linear: a weight as panels_f32 does not take bf16 to f32; it takes f32 to f32, f32 to bf16");
  expect_runtime_error(
      [&] {
        linear(c.ctx, c.i32({4, 6}), x, weight);
      },
      "linear: a weight as panels_f32 does not take f32 to i32; it takes f32 to f32, f32 to bf16");
  expect_runtime_error(
      [&] {
        linear_backward_input(c.ctx, x, c.f32({4, 6}), weight);
      },
      "linear_backward_input: the weight [1, 6, 8] was not prepared for it");
  expect_runtime_error(
      [&] {
        linear_backward_weight(c.ctx, c.f32({6, 7}), c.f32({4, 6}), x, true);
      },
      "linear_backward_weight: d_weight: expected f32 [any, 8], found f32 [6, 7]");
  expect_runtime_error(
      [&] {
        linear_backward_weight(c.ctx, c.f32({6, 8}), c.f32({3, 6}), x, true);
      },
      "linear_backward_weight: d_out: expected f32 [4, 6], found f32 [3, 6]");
  expect_runtime_error([&] { add_bias(c.ctx, x, c.f32({7})); }, "add_bias: bias: expected f32 [8], found f32 [7]");
  expect_runtime_error([&] { add_bias_backward(c.ctx, c.bf16({8}), x, true); },
                       "add_bias_backward: d_bias: expected f32 [8], found bf16 [8]");
}

TEST(LinearOps, GroupedProductsRefuseWhatDoesNotFit) {
  OpCase c;
  Arena arena("prepared");
  const PreparedWeight weight = prepared(3, BackwardLayout::kKept, arena);
  const Tensor x = c.f32({5, 8});
  const Tensor out = c.f32({5, 6});
  expect_runtime_error([&] { linear(c.ctx, out, x, weight); }, "linear: the weight [3, 6, 8] was not prepared for it");
  const RowGroups groups{c.i32({4}), c.i32({3}), 5};
  expect_runtime_error(
      [&] {
        grouped_linear(c.ctx, out, x, weight, {c.i32({3}), c.i32({2}), 5});
      },
      "grouped_linear: sizes of the groups: expected i32 [3], found i32 [2]");
  expect_runtime_error(
      [&] {
        grouped_linear(c.ctx, out, x, weight, {c.i32({3}), c.i32({3}), 5});
      },
      "grouped_linear: offsets of the groups: expected i32 [4], found i32 [3]");
  expect_runtime_error(
      [&] {
        grouped_linear(c.ctx, out, x, weight, {c.i32({4}), c.i32({3}), 6});
      },
      "grouped_linear: expected groups of 5 rows, found groups of 6");
  expect_runtime_error([&] { grouped_linear_backward_input(c.ctx, out, x, weight, groups); },
                       "grouped_linear_backward_input: d_out: expected f32 [5, 6], found f32 [5, 8]");
  expect_runtime_error(
      [&] {
        grouped_linear_backward_weight(c.ctx, c.f32({3, 6, 7}), out, x, groups, true);
      },
      "grouped_linear_backward_weight: d_weight: expected f32 [any, any, 8], found f32 [3, 6, 7]");
  expect_runtime_error(
      [&] {
        const GroupedOperands first{out, x, groups}, second{c.f32({5, 7}), x, groups};
        grouped_linear_backward_weight_of_both(c.ctx, c.f32({3, 6, 8}), first, second, true);
      },
      "grouped_linear_backward_weight_of_both: d_out: expected f32 [5, 6], found f32 [5, 7]");
}

TEST(LinearOps, AWeightIsPreparedFromWholeGroups) {
  OpCase c;
  Arena arena("prepared");
  PreparedWeight weight = prepared(3, BackwardLayout::kKept, arena);
  const Tensor rows[2] = {c.f32({6, 8}), c.f32({5, 8})};
  expect_runtime_error([&] { prepare_weight(c.ctx, weight, 0, rows); },
                       "prepare_weight: 2 matrices of 11 rows for groups 0 to 0 of a weight [3, 6, 8]");
  const Tensor narrow[1] = {c.f32({6, 7})};
  expect_runtime_error([&] { prepare_weight(c.ctx, weight, 0, narrow); },
                       "prepare_weight: rows: expected f32 [any, 8], found f32 [6, 7]");
}

TEST(LinearOps, OtherOperandsAreRefused) {
  Arena arena("prepared");
  PreparedWeight weight;
  weight.activations = DType::kF16;
  expect_runtime_error([&] { plan_prepared_weight(weight, arena); },
                       "no format of weights for activations of f16 on the CPU; there are some for f32, bf16");
}

}  // namespace
}  // namespace deeptitan
