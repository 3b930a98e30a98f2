#include "model/moe/token_dispatcher.h"

#include <cmath>
#include <numeric>

#include <gtest/gtest.h>

#include "core/step_state.h"
#include "core/transfer.h"
#include "model/deepseek/deepseek_model.h"
#include "model/stage.h"
#include "support/dispatcher_with_room.h"
#include "support/expect_error.h"
#include "support/tiny_model.h"

namespace deeptitan {
namespace {

// The gradients of all parameters after one batch of two documents, one behind the other.
std::vector<float> gradients_of(const MakeDispatcher& make_dispatcher, int64_t* planned, bool* can_be_captured,
                                bool experts_in_slices = false) {
  constexpr int64_t kTokens = 24;
  const ModelConfig config = testing::tiny_v3();
  DeepseekModel model(config, {.max_positions = kTokens, .make_dispatcher = make_dispatcher});
  *can_be_captured = model.can_be_captured(kTokens);
  Arena memory("memory"), gradients("gradients"), saved("saved"), workspace("workspace");
  StepState state;
  state.in.target_scale = state.in.token_scale = state.in.mtp_scale = 1.0 / kTokens;
  ExecutionContext ctx;
  ctx.workspace = &workspace;
  ctx.state = &state;
  BatchLayout batch;
  batch.capacity = {.tokens = kTokens, .sequences = 2, .max_query = kTokens, .max_visible = kTokens};
  batch.longest_position = kTokens;
  TrainingTargets targets;
  const Stage whole = split_into_stages(config.num_hidden_layers, 1).front();
  std::unique_ptr<DeepseekModel::StageRecord> record;
  const auto take = [&] {
    model.parameters().plan_values(memory);
    model.parameters().plan_prepared(memory);
    model.plan_constants(memory);
    model.parameters().plan_gradients(gradients);
    for (Tensor* t : {&batch.token_ids, &batch.positions, &targets.targets, &targets.next_ids, &targets.next_targets}) {
      *t = memory.take(DType::kI32, {kTokens});
    }
    batch.query_offset = memory.take(DType::kI32, {3});
    batch.balance_offset = memory.take(DType::kI32, {2});
    record = model.make_record(whole, {saved, memory}, kTokens, false);
  };
  const auto run = [&] {
    const ForwardContext forward{.batch = batch, .experts_in_slices = experts_in_slices};
    model.begin_step(ctx);
    model.forward(ctx, forward, targets, *record);
    model.backward(ctx, forward, targets, DeepseekModel::Backward::kBoth, *record);
    model.end_step(ctx);
  };
  ctx.planning = true;
  take();
  run();
  ctx.planning = false;
  *planned = saved.peak();
  for (Arena* arena : {&memory, &gradients, &saved, &workspace}) arena->allocate();
  take();
  model.parameters().load(ctx, std::make_shared<DrawnValues>(3, config.initializer_range));
  std::vector<int32_t> ids(kTokens), positions(kTokens);
  for (int64_t t = 0; t < kTokens; ++t) {
    ids[t] = static_cast<int32_t>(t * 7 % config.vocab_size);
    positions[t] = static_cast<int32_t>(t < 9 ? t : t - 9);
  }
  upload<int32_t>(batch.token_ids, ids);
  upload<int32_t>(batch.positions, positions);
  upload<int32_t>(batch.query_offset, std::vector<int32_t>{0, 9, kTokens});
  upload<int32_t>(batch.balance_offset, std::vector<int32_t>{0, kTokens});
  for (const Tensor& t : {targets.targets, targets.next_ids, targets.next_targets}) upload<int32_t>(t, ids);
  run();
  std::vector<float> all;
  for (const Parameter& p : model.parameters().all()) {
    if (!p.gradient.defined()) continue;
    const std::vector<float> values = download<float>(p.gradient);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

using testing::dispatcher_with_room;

TEST(TokenDispatcher, AnInjectedOneWithMoreRoomGivesTheSameBits) {
  int64_t local_bytes = 0, roomy_bytes = 0;
  bool local_captured = false, roomy_captured = true;
  const std::vector<float> local = gradients_of(make_local_dispatcher, &local_bytes, &local_captured);
  const std::vector<float> roomy =
      gradients_of(dispatcher_with_room(1, [](int64_t most) { return most + 5; }), &roomy_bytes, &roomy_captured);
  EXPECT_EQ(local, roomy);
  EXPECT_GT(std::accumulate(local.begin(), local.end(), 0.0, [](double s, float x) { return s + std::abs(x); }), 0.0);
  EXPECT_GT(roomy_bytes, local_bytes);
  EXPECT_TRUE(local_captured);
  EXPECT_FALSE(roomy_captured);
}

// Padding inside is neither read nor written, so that what lies there does not show; in the end it does not even where
// it is not a number.
TEST(TokenDispatcher, PaddingBetweenTheGroupsDoesNotShow) {
  int64_t bytes = 0;
  bool captured = false;
  const std::vector<float> local = gradients_of(make_local_dispatcher, &bytes, &captured);
  for (const int64_t alignment : {2, 8, 128}) {
    EXPECT_EQ(local,
              gradients_of(dispatcher_with_room(alignment, [](int64_t most) { return most; }), &bytes, &captured))
        << alignment;
  }
}

// Sums over tokens are cut where slices meet: the same numbers but for their order.
TEST(TokenDispatcher, ExpertsInSlicesGiveTheSameGradients) {
  int64_t bytes = 0;
  bool captured = false;
  const std::vector<float> local = gradients_of(make_local_dispatcher, &bytes, &captured);
  const std::vector<float> sliced =
      gradients_of(dispatcher_with_room(1, [](int64_t most) { return std::max<int64_t>(3, most / 5); }), &bytes,
                   &captured, /*experts_in_slices=*/true);
  ASSERT_EQ(local.size(), sliced.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < local.size(); ++i) {
    difference += std::pow(local[i] - sliced[i], 2);
    norm += std::pow(local[i], 2);
  }
  EXPECT_LT(std::sqrt(difference / norm), 1e-6);
}

TEST(TokenDispatcher, SlicesAreAsLargeAsSurelyFits) {
  const RouterOptions router{.experts = 8, .top_k = 3};
  const auto with_room = [&](int64_t rows) { return dispatcher_with_room(4, [=](int64_t) { return rows; })(router); };
  EXPECT_EQ(with_room(48)->most_rows(8), 48);  // 24 slots, and 3 rows of padding for each of 8 experts
  EXPECT_EQ(with_room(48)->tokens_that_fit(8), 8);
  EXPECT_EQ(with_room(47)->tokens_that_fit(8), 7);
  EXPECT_EQ(with_room(24)->tokens_that_fit(8), 2);
  expect_usage_error(
      [&] { with_room(11)->tokens_that_fit(8); },
      "the experts have room for 11 rows, and one token of each rank may need 12; raise parallelism.expert_room");
}

}  // namespace
}  // namespace deeptitan
