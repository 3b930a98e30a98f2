#include "ops/elementwise.h"

#include <array>

#include <gtest/gtest.h>

#include "ops/op_case.h"

namespace deeptitan {
namespace {

TEST(ElementwiseOps, RefuseWhatDoesNotFit) {
  OpCase c;
  const Tensor x = c.f32({4, 8});
  expect_runtime_error(
      [&] {
        add(c.ctx, x, x, c.f32({4, 7}));
      },
      "add: expected three tensors of one shape and dtype, found f32 [4, 8] = f32 [4, 8] + f32 [4, 7]");
  expect_runtime_error([&] { add(c.ctx, c.i32({4}), c.i32({4}), c.i32({4})); },
                       "add: out: expected f32 or bf16, found i32 [4]");
  const Tensor slice = c.f32({4, 9}).columns(0, 8);
  expect_runtime_error([&] { add(c.ctx, slice, x, x); },
                       "add: expected contiguous rows, found f32 [4, 8] with 9 elements from row to row");
  expect_runtime_error(
      [&] {
        convert(c.ctx, c.bf16({4, 9}), x);
      },
      "convert: expected two matrices of one shape, found bf16 [4, 9] from f32 [4, 8]");
  expect_runtime_error([&] { fill_zero(c.ctx, c.bf16({3})); },
                       "fill_zero: expected whole words of four bytes, found bf16 [3]");
  expect_runtime_error([&] { swiglu(c.ctx, x, x, slice); },
                       "swiglu: gate f32 [4, 8] and up f32 [4, 8] are not slices of one buffer");
  expect_runtime_error(
      [&] {
        swiglu(c.ctx, c.bf16({4, 8}), x, x);
      },
      "swiglu: out: expected f32 [4, 8], found bf16 [4, 8]");
  expect_runtime_error([&] { swiglu_backward(c.ctx, slice, x, x, x, x); },
                       "swiglu_backward: d_gate f32 [4, 8] and d_up f32 [4, 8] are not slices of one buffer");
  const RowGroups groups{c.i32({3}), c.i32({2}), 4};
  grouped_swiglu(c.ctx, x, x, x, groups);
  grouped_swiglu_backward(c.ctx, x, x, x, x, x, groups);
  expect_runtime_error([&] { grouped_swiglu(c.ctx, x, x, x, {}); },
                       "grouped_swiglu: expected groups of rows, found none");
  expect_runtime_error(
      [&] {
        grouped_swiglu_backward(c.ctx, x, x, x, x, x, {c.i32({3}), c.i32({2}), 5});
      },
      "grouped_swiglu_backward: expected groups of 4 rows, found groups of 5");
}

TEST(ElementwiseOps, EmbeddingRefusesWhatDoesNotFit) {
  OpCase c;
  const Tensor table = c.f32({10, 8});
  expect_runtime_error(
      [&] {
        embedding(c.ctx, c.f32({3, 8}), table, c.i32({4}));
      },
      "embedding: out: expected f32 [4, 8], found f32 [3, 8]");
  expect_runtime_error(
      [&] {
        embedding(c.ctx, c.f32({4, 8}), c.bf16({10, 8}), c.i32({4}));
      },
      "embedding: a table of bf16 is not read into f32");
  expect_runtime_error(
      [&] {
        embedding(c.ctx, c.f32({4, 8}), table, c.f32({4}));
      },
      "embedding: ids: expected i32 [any], found f32 [4]");
  expect_runtime_error(
      [&] {
        embedding_backward(c.ctx, c.f32({10, 7}), c.f32({4, 8}), c.i32({4}));
      },
      "embedding_backward: d_table: expected f32 [any, 8], found f32 [10, 7]");
  std::array<int32_t, 3> ids = {1, 9, 10};
  std::array<float, 10> values{};
  std::array<float, 3> out{};
  ExecutionContext ctx;
  expect_runtime_error(
      [&] {
        embedding(ctx, {out.data(), DType::kF32, {3, 1}}, {values.data(), DType::kF32, {10, 1}},
                  {ids.data(), DType::kI32, {3}});
      },
      "token id 10 at place 2 is outside the embedding's 10 rows");
}

TEST(ElementwiseOps, EmbeddingReadsARowATokenNotTheTable) {
  OpCase c;
  OpProfile profile;
  c.ctx.profile = &profile;
  embedding(c.ctx, c.bf16({4, 8}), c.f32({1000, 8}), c.i32({4}));
  EXPECT_EQ(profile.entries.at("embedding").bytes, 4 * 8 * (4 + 2));
}

}  // namespace
}  // namespace deeptitan
