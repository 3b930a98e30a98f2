#include "ops/rank_sum.h"

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

}  // namespace
}  // namespace deeptitan
