#include "ops/expert_rows.h"

#include <gtest/gtest.h>

#include "ops/op_case.h"

namespace deeptitan {
namespace {

// Five tokens of width 8, six experts on two ranks, two a token, room for 12 rows on each.
class ExpertRowsOps : public ::testing::Test {
 protected:
  ExpertRowsOps() { routing_ = {c_.i32({5, 2}), c_.f32({5, 2}), c_.f32({5, 6}), c_.i32({6})}; }
  OpCase c_;
  Routing routing_;
  PeerExchange peers_;
};

TEST_F(ExpertRowsOps, PlacesRefuseWhatDoesNotFit) {
  const auto run = [&](const Tensor& place, const Tensor& offset, const Tensor& size) {
    return [=, this] { place_rows(c_.ctx, place, offset, size, routing_, 12, peers_); };
  };
  run(c_.i32({5, 2}), c_.i32({4}), c_.i32({3}))();
  expect_runtime_error(run(c_.i32({5, 3}), c_.i32({4}), c_.i32({3})),
                       "place_rows: place: expected i32 [5, 2], found i32 [5, 3]");
  expect_runtime_error(run(c_.i32({5, 2}), c_.i32({3}), c_.i32({3})),
                       "place_rows: group_offset: expected i32 [4], found i32 [3]");
  expect_runtime_error(run(c_.i32({5, 2}), c_.i32({5}), c_.i32({4})),
                       "place_rows: 4 experts of this rank are no equal part of 6");
}

TEST_F(ExpertRowsOps, MovesRefuseWhatDoesNotFit) {
  const Tensor x = c_.f32({5, 8}), rows = c_.f32({12, 8}), weight = c_.f32({5, 2}), place = c_.i32({5, 2});
  push_rows(c_.ctx, rows, c_.f32({12}), x, weight, place, peers_);
  expect_runtime_error(
      [&] {
        push_rows(c_.ctx, c_.f32({12, 9}), {}, x, {}, place, peers_);
      },
      "push_rows: rows: expected f32 [any, 8], found f32 [12, 9]");
  expect_runtime_error([&] { push_rows(c_.ctx, rows, {}, x, weight, place, peers_); },
                       "push_rows: weights need both ends, here and there");
  expect_runtime_error([&] { push_rows(c_.ctx, rows, c_.f32({11}), x, weight, place, peers_); },
                       "push_rows: row_weight: expected f32 [12], found f32 [11]");
  pull_rows(c_.ctx, x, rows, weight, x, place, peers_);
  expect_runtime_error(
      [&] {
        pull_rows(c_.ctx, c_.f32({4, 8}), rows, weight, {}, place, peers_);
      },
      "pull_rows: out: expected f32 [5, 8], found f32 [4, 8]");
  pull_values(c_.ctx, weight, c_.f32({12}), place, peers_);
  expect_runtime_error(
      [&] {
        pull_values(c_.ctx, c_.f32({5, 3}), c_.f32({12}), place, peers_);
      },
      "pull_values: out: expected f32 [5, 2], found f32 [5, 3]");
  meet_ranks(c_.ctx, peers_);
  ExecutionContext running = c_.ctx;
  running.planning = false;
  expect_runtime_error([&] { meet_ranks(running, peers_); },
                       "meet_ranks: the memory in which ranks meet is planned alone");
  weight_rows_backward(c_.ctx, rows, c_.f32({12}), rows, c_.f32({12}), c_.i32({4}));
  expect_runtime_error([&] { weight_rows_backward(c_.ctx, rows, c_.f32({12}), rows, c_.f32({13}), c_.i32({4})); },
                       "weight_rows_backward: weight: expected f32 [12], found f32 [13]");
}

}  // namespace
}  // namespace deeptitan
