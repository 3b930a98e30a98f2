#include "ops/rank_sum.h"

#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "ops/op_case.h"

namespace deeptitan {
namespace {

TEST(RankSumOps, RefuseWhatDoesNotFit) {
  OpCase c;
  add_up_ranks(c.ctx, c.f32({7}), {});
  expect_runtime_error([&] { add_up_ranks(c.ctx, c.bf16({7}), {}); },
                       "add_up_ranks: x: expected f32 [any], found bf16 [7]");
  expect_runtime_error(
      [&] {
        add_up_ranks(c.ctx, c.f32({7, 2}), {});
      },
      "add_up_ranks: x: expected f32 [any], found f32 [7, 2]");
}

TEST(RankSumOps, PartsAreRefusedThatAreNotAllThereIs) {
  OpCase c;
  fetch_parts(c.ctx, c.f32({7}), {}, std::vector<int64_t>{0, 3, 7}, {});
  expect_runtime_error(
      [&] {
        fetch_parts(c.ctx, c.bf16({7}), {}, std::vector<int64_t>{0, 3, 7}, {});
      },
      "fetch_parts: x: expected f32 [any], found bf16 [7]");
  expect_runtime_error(
      [&] {
        fetch_parts(c.ctx, c.f32({7}), c.f32({6}), std::vector<int64_t>{0, 3, 7}, {});
      },
      "fetch_parts: rounded: expected f32 [7], found f32 [6]");
  expect_runtime_error(
      [&] {
        fetch_parts(c.ctx, c.f32({7}), {}, std::vector<int64_t>{0, 3, 6}, {});
      },
      "fetch_parts: parts that begin at 0, 3, 6 are not those of 7 elements on 0 ranks");
}

}  // namespace
}  // namespace deeptitan
