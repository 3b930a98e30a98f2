#include "ops/moe.h"

#include <gtest/gtest.h>

#include "ops/op_case.h"

namespace deeptitan {
namespace {

// Five tokens, six experts, two a token.
class MoeOps : public ::testing::Test {
 protected:
  MoeOps() {
    options_.experts = 6;
    options_.top_k = 2;
    order_ = {c_.i32({10}), c_.i32({10}), c_.i32({7}), c_.i32({6})};
    routing_ = {c_.i32({5, 2}), c_.f32({5, 2}), c_.f32({5, 6}), c_.i32({6})};
  }
  OpCase c_;
  RouterOptions options_;
  Routing routing_;
  SlotOrder order_;
};

TEST_F(MoeOps, RoutingRefusesWhatDoesNotFit) {
  const auto run = [&](const Routing& routing, const Tensor& logits, const Tensor& bias) {
    return [=, this] { route(c_.ctx, routing, logits, bias, options_); };
  };
  const Tensor logits = c_.f32({5, 6});
  run(routing_, logits, {})();
  expect_runtime_error(run(routing_, c_.f32({5, 7}), {}), "route: logits: expected f32 [5, 6], found f32 [5, 7]");
  Routing wrong = routing_;
  wrong.expert_weight = c_.f32({5, 3});
  expect_runtime_error(run(wrong, logits, {}), "routing: expert_weight: expected f32 [5, 2], found f32 [5, 3]");
  expect_runtime_error(run(routing_, logits, c_.f32({6})), "route: the router has not a bias, but one was given");
  options_.bias = true;
  expect_runtime_error(run(routing_, logits, {}), "route: the router has a bias, but one was not given");
  expect_runtime_error(run(routing_, logits, c_.f32({5})), "route: bias: expected f32 [6], found f32 [5]");
  run(routing_, logits, c_.f32({6}))();
  expect_runtime_error(
      [&] {
        route_as_recorded(c_.ctx, routing_, c_.f32({4, 6}), options_);
      },
      "route_as_recorded: logits: expected f32 [5, 6], found f32 [4, 6]");
  expect_runtime_error(
      [&] {
        route_backward(c_.ctx, logits, c_.f32({5, 1}), {}, routing_, options_);
      },
      "route_backward: d_weight: expected f32 [5, 2], found f32 [5, 1]");
  expect_runtime_error(
      [&] {
        route_backward(c_.ctx, logits, c_.f32({5, 2}), c_.f32({5, 5}), routing_, options_);
      },
      "route_backward: d_scores: expected f32 [5, 6], found f32 [5, 5]");
}

TEST_F(MoeOps, BalanceRefusesWhatDoesNotFit) {
  expect_runtime_error([&] { accumulate_counts(c_.ctx, c_.i32({5}), routing_.counts); },
                       "accumulate_counts: load: expected i32 [6], found i32 [5]");
  expect_runtime_error([&] { update_router_bias(c_.ctx, c_.f32({5}), routing_.counts, 0.1); },
                       "update_router_bias: bias: expected f32 [6], found f32 [5]");
  double loss = 0;
  expect_runtime_error(
      [&] {
        sequence_auxiliary_loss(c_.ctx, &loss, c_.f32({5, 5}), routing_, c_.i32({2}), options_, 1, &loss);
      },
      "sequence_auxiliary_loss: d_scores: expected f32 [5, 6], found f32 [5, 5]");
}

TEST_F(MoeOps, MovingRowsRefusesWhatDoesNotFit) {
  const Tensor x = c_.f32({5, 8});
  const Tensor rows = c_.f32({10, 8});
  const Tensor weight = c_.f32({5, 2});
  sort_slots(c_.ctx, order_, routing_, 1);
  permute_rows(c_.ctx, rows, x, order_);
  unpermute_rows(c_.ctx, x, rows, weight, x, {}, order_);
  unpermute_rows_backward(c_.ctx, rows, weight, x, rows, weight, order_);
  SlotOrder wrong = order_;
  wrong.row_of_slot = c_.i32({9});
  expect_runtime_error([&] { sort_slots(c_.ctx, wrong, routing_, 1); },
                       "sort_slots: row_of_slot: expected i32 [10], found i32 [9]");
  expect_runtime_error([&] { permute_rows(c_.ctx, rows, x, wrong); },
                       "order: 9 slots are no whole number of each of 5 tokens");
  expect_runtime_error(
      [&] {
        permute_rows(c_.ctx, c_.f32({9, 8}), x, order_);
      },
      "permute_rows: out: expected f32 [10, 8], found f32 [9, 8]");
  expect_runtime_error(
      [&] {
        unpermute_rows(c_.ctx, x, c_.f32({9, 8}), {}, {}, {}, order_);
      },
      "unpermute_rows: y: expected f32 [10, any], found f32 [9, 8]");
  expect_runtime_error(
      [&] {
        unpermute_rows(c_.ctx, x, rows, c_.f32({5, 3}), {}, {}, order_);
      },
      "unpermute_rows: weight: expected f32 [5, 2], found f32 [5, 3]");
  expect_runtime_error(
      [&] {
        unpermute_rows(c_.ctx, x, rows, {}, c_.f32({4, 8}), {}, order_);
      },
      "unpermute_rows: addend: expected f32 [5, 8], found f32 [4, 8]");
  expect_runtime_error(
      [&] {
        unpermute_rows(c_.ctx, x, rows, {}, {}, c_.f32({4, 8}), order_);
      },
      "unpermute_rows: residual: expected f32 [5, 8], found f32 [4, 8]");
  expect_runtime_error(
      [&] {
        unpermute_rows_backward(c_.ctx, rows, c_.f32({5, 3}), x, rows, weight, order_);
      },
      "unpermute_rows_backward: d_weight: expected f32 [5, 2], found f32 [5, 3]");
  clear_rows_outside(c_.ctx, rows, order_.group_offset);
  expect_runtime_error([&] { clear_rows_outside(c_.ctx, rows, weight); },
                       "clear_rows_outside: offset: expected i32 [any], found f32 [5, 2]");
}

TEST_F(MoeOps, ExchangedRowsAreRefusedWhereTheyDoNotFit) {
  expect_runtime_error([&] { count_choices(c_.ctx, c_.f32({6}), routing_.expert_index); },
                       "count_choices: counts: expected i32 [any], found f32 [6]");
  expect_runtime_error([&] { count_choices(c_.ctx, c_.i32({6}), c_.i32({10})); },
                       "count_choices: expert_index: expected i32 [any, any], found i32 [10]");
  const Tensor counts = c_.i32({4, 6});  // of four ranks
  sort_received_rows(c_.ctx, order_, counts);
  expect_runtime_error(
      [&] {
        sort_received_rows(c_.ctx, order_, c_.i32({4, 5}));
      },
      "sort_received_rows: group_size: expected i32 [5], found i32 [6]");
  SlotOrder wrong = order_;
  wrong.row_of_slot = c_.i32({9});
  expect_runtime_error([&] { sort_received_rows(c_.ctx, wrong, counts); },
                       "sort_received_rows: row_of_slot: expected i32 [10], found i32 [9]");
  expect_runtime_error([&] { copy(c_.ctx, c_.f32({4, 8}), c_.f32({8, 4})); }, "copy: f32 [4, 8] from f32 [8, 4]");
  expect_runtime_error([&] { copy(c_.ctx, c_.f32({4, 8}), c_.bf16({4, 8})); }, "copy: f32 [4, 8] from bf16 [4, 8]");
}

TEST_F(MoeOps, RefuseTensorsOfAnotherDevice) {
  expect_runtime_error(
      [&] {
        route(c_.ctx, routing_, c_.on_gpu({5, 6}), {}, options_);
      },
      "route: expected tensors on cpu, found f32 [5, 6] on cuda:0");
  expect_runtime_error(
      [&] {
        permute_rows(c_.ctx, c_.f32({10, 8}), c_.on_gpu({5, 8}), order_);
      },
      "permute_rows: expected tensors on cpu, found f32 [5, 8] on cuda:0");
}

}  // namespace
}  // namespace deeptitan
