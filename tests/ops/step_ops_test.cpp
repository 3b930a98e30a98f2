#include <array>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "ops/expert_load.h"
#include "ops/loss.h"
#include "ops/moe.h"
#include "ops/op_case.h"
#include "ops/optimizer.h"
#include "ops/sampling.h"

namespace deeptitan {
namespace {

TEST(LossOps, RefuseWhatDoesNotFit) {
  OpCase c;
  const Tensor logits = c.f32({4, 9});
  const Tensor loss = c.f32({4});
  const Tensor targets = c.i32({4});
  const double scale = 1;
  expect_runtime_error([&] { softmax_cross_entropy(c.ctx, c.f32({3}), {}, logits, targets, nullptr); },
                       "softmax_cross_entropy: loss: expected f32 [4], found f32 [3]");
  expect_runtime_error(
      [&] {
        softmax_cross_entropy(c.ctx, loss, c.f32({4, 8}), logits, targets, &scale);
      },
      "softmax_cross_entropy: d_logits: expected f32 [4, 9], found f32 [4, 8]");
  expect_runtime_error([&] { softmax_cross_entropy(c.ctx, loss, logits, logits, targets, nullptr); },
                       "softmax_cross_entropy: a gradient needs its scale");
  expect_runtime_error([&] { token_logprobs(c.ctx, loss, c.f32({4}), logits, targets); },
                       "token_logprobs: argmax: expected i32 [4], found f32 [4]");
  expect_runtime_error([&] { accumulate_sum(c.ctx, c.f32({1}), loss); },
                       "accumulate_sum: sum: expected f64 [1], found f32 [1]");
}

TEST(SamplingOps, RefuseWhatDoesNotFit) {
  OpCase c;
  const Tensor logits = c.f32({4, 70}), choices = c.i32({4, kChoiceWords}), allowed = c.i32({3}), chosen = c.i32({4});
  choose_tokens(c.ctx, chosen, logits, choices, allowed);
  expect_runtime_error([&] { choose_tokens(c.ctx, c.i32({3}), logits, choices, allowed); },
                       "choose_tokens: chosen: expected i32 [4], found i32 [3]");
  expect_runtime_error(
      [&] {
        choose_tokens(c.ctx, chosen, logits, c.i32({4, 5}), allowed);
      },
      "choose_tokens: choices: expected i32 [4, 10], found i32 [4, 5]");
  expect_runtime_error([&] { choose_tokens(c.ctx, chosen, logits, choices, c.i32({2})); },
                       "choose_tokens: allowed: expected i32 [3], found i32 [2]");
  choose_tokens(c.ctx, chosen, logits, choices, allowed, c.i32({4, 3}));
  expect_runtime_error(
      [&] {
        choose_tokens(c.ctx, chosen, logits, choices, allowed, c.i32({3, 3}));
      },
      "choose_tokens: earlier: expected i32 [4, 3], found i32 [3, 3]");
}

TEST(OptimizerOps, RefuseWhatDoesNotFit) {
  OpCase c;
  const Tensor p = c.f32({12});
  expect_runtime_error([&] { adamw_update(c.ctx, p, p, c.f32({11}), p, 0, {}, {}); },
                       "adamw_update: second_moment: expected f32 [12], found f32 [11]");
  expect_runtime_error([&] { adamw_update(c.ctx, p, c.bf16({12}), p, p, 0, {}, {}); },
                       "adamw_update: second_moment: expected bf16 [12], found f32 [12]");
  expect_runtime_error([&] { adamw_update(c.ctx, p, c.i32({12}), p, p, 0, {}, {}); },
                       "adamw_update: first_moment: expected f32 or bf16, found i32 [12]");
  expect_runtime_error(
      [&] {
        square_sums(c.ctx, c.f32({kSquareBlocks}), p, {0, p.numel()});
      },
      "square_sums: sums: expected f64 [256], found f32 [256]");
  Arena sums("sums");
  expect_runtime_error(
      [&] {
        finish_gradient(c.ctx, sums.take(DType::kF64, {2, 255}), 1.0, false);
      },
      "finish_gradient: sums: expected f64 [any, 256], found f64 [2, 255]");
  expect_runtime_error(
      [&] {
        finish_gradient(c.ctx, sums.take(DType::kF64, {2, kSquareBlocks}), 1.0, false);
      },
      "finish_gradient: the context has no step state");
  expect_runtime_error([&] { begin_step_output(c.ctx); }, "begin_step_output: the context has no step state");
}

TEST(OptimizerOps, TheStepStateDecides) {
  std::array<double, 2 * kSquareBlocks> sums{};
  sums[0] = 9;
  sums[kSquareBlocks + 7] = 16;
  const Tensor tensor(sums.data(), DType::kF64, {2, kSquareBlocks});
  StepState state;
  ExecutionContext ctx;
  ctx.state = &state;
  finish_gradient(ctx, tensor, 2.5, true);
  EXPECT_EQ(state.out.gradient_squares, 25);
  EXPECT_EQ(state.out.clip, static_cast<float>(2.5 / (5.0 + 1e-6)));
  EXPECT_EQ(state.out.updates, 1);
  begin_step_output(ctx);
  state.out.loss_sum = std::numeric_limits<double>::infinity();
  finish_gradient(ctx, tensor, 0, false);
  EXPECT_EQ(state.out.valid, 0);
  EXPECT_EQ(state.out.halt, 0);
  EXPECT_EQ(state.out.clip, 1.0f);
  begin_step_output(ctx);
  state.out.row_overflow = 1;
  finish_gradient(ctx, tensor, 0, false);
  EXPECT_EQ(state.out.valid, 0);
  EXPECT_EQ(state.out.halt, 1) << "what is behind it waits until it is run again";
  begin_step_output(ctx);
  EXPECT_EQ(state.out.row_overflow, 0);
  finish_gradient(ctx, tensor, 0, false);
  EXPECT_EQ(state.out.valid, 0) << "a halted run applies nothing";
  EXPECT_EQ(state.out.updates, 1);
}

TEST(ExpertLoadOp, SummarisesWhereTheLoadLies) {
  std::array<int32_t, 4> load = {3, 0, 5, 0};
  std::array<float, 4> bias = {0.5f, -1.0f, 0.25f, 2.0f};
  std::array<double, kLoadSummaryNumbers> summary{};
  const Tensor out(summary.data(), DType::kF64, {kLoadSummaryNumbers});
  ExecutionContext ctx;
  summarise_expert_load(ctx, out, {load.data(), DType::kI32, {4}}, {bias.data(), DType::kF32, {4}});
  EXPECT_EQ(summary, (std::array<double, kLoadSummaryNumbers>{5, 8, 2, -1, 2}));
  summarise_expert_load(ctx, out, {load.data(), DType::kI32, {4}}, {});
  EXPECT_EQ(summary, (std::array<double, kLoadSummaryNumbers>{5, 8, 2, 0, 0}));
  OpCase c;
  expect_runtime_error([&] { summarise_expert_load(c.ctx, out, c.i32({4}), c.f32({3})); },
                       "summarise_expert_load: bias: expected f32 [4], found f32 [3]");
}

// An empty rank or batch: nothing to do, and nothing divided by it.
TEST(DispatchOps, NoTokensAreNothingToDo) {
  Arena arena("tensors");
  arena.allocate(4096);
  const auto f32 = [&](Tensor::Shape shape) { return arena.take(DType::kF32, shape); };
  const auto i32 = [&](Tensor::Shape shape) { return arena.take(DType::kI32, shape); };
  const Routing routing{i32({0, 2}), f32({0, 2}), f32({0, 4}), i32({4})};
  const SlotOrder order{i32({0}), i32({0}), i32({5}), i32({4})};
  ExecutionContext ctx;
  const Tensor x = f32({0, 8});
  sort_slots(ctx, order, routing, 1);
  for (int g = 0; g < 5; ++g) EXPECT_EQ(order.group_offset.host<int32_t>()[g], 0) << g;
  permute_rows(ctx, f32({0, 8}), x, order);
  unpermute_rows(ctx, f32({0, 8}), x, routing.expert_weight, {}, {}, order);
  unpermute_rows_backward(ctx, f32({0, 8}), f32({0, 2}), x, x, routing.expert_weight, order);
}

}  // namespace
}  // namespace deeptitan
