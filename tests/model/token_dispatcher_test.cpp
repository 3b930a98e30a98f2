#include "model/moe/token_dispatcher.h"

#include <numeric>

#include <gtest/gtest.h>

#include "core/step_state.h"
#include "core/transfer.h"
#include "model/deepseek/deepseek_model.h"
#include "model/stage.h"
#include "support/tiny_model.h"

namespace deeptitan {
namespace {

// All experts on this rank, with more room than rows: what stands behind the last group is padding.
class RoomyDispatcher final : public TokenDispatcher {
 public:
  explicit RoomyDispatcher(const RouterOptions& router)
      : local_(router.experts, router.top_k), experts_(router.experts), top_k_(router.top_k) {}

  int64_t capacity(int64_t tokens) const override { return local_.capacity(tokens) + 5; }
  bool can_be_captured() const override { return false; }
  Route make_route(Arena& arena, int64_t tokens) const override {
    return {{arena.take(DType::kI32, {tokens * top_k_}), arena.take(DType::kI32, {capacity(tokens)}),
             arena.take(DType::kI32, {experts_ + 1})}};
  }
  RowGroups groups(const Routing& routing, const Route& route) const override { return local_.groups(routing, route); }
  void dispatch(ExecutionContext& ctx, const Tensor& rows, const Tensor& x, const Routing& routing,
                const Route& route) const override {
    local_.dispatch(ctx, rows, x, routing, route);
  }
  void dispatch_backward(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_rows, const Tensor& addend,
                         const Route& route) const override {
    local_.dispatch_backward(ctx, d_x, d_rows, addend, route);
  }
  void combine(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight, const Tensor& addend,
               const Route& route) const override {
    local_.combine(ctx, out, rows, weight, addend, route);
  }
  void combine_backward(ExecutionContext& ctx, const Tensor& d_rows, const Tensor& d_weight, const Tensor& d_out,
                        const Tensor& rows, const Tensor& weight, const Route& route) const override {
    local_.combine_backward(ctx, d_rows, d_weight, d_out, rows, weight, route);
  }

 private:
  LocalDispatcher local_;
  int64_t experts_;
  int64_t top_k_;
};

// The gradients of all parameters after one batch of two documents, one behind the other.
std::vector<float> gradients_of(const MakeDispatcher& make_dispatcher, int64_t* planned, bool* can_be_captured) {
  constexpr int64_t kTokens = 24;
  const ModelConfig config = testing::tiny_v3();
  DeepseekModel model(config, {.max_positions = kTokens, .make_dispatcher = make_dispatcher});
  *can_be_captured = model.can_be_captured();
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
    const ForwardContext forward{.batch = batch};
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

TEST(TokenDispatcher, AnInjectedOneWithMoreRoomGivesTheSameBits) {
  int64_t local_bytes = 0, roomy_bytes = 0;
  bool local_captured = false, roomy_captured = true;
  const std::vector<float> local = gradients_of(make_local_dispatcher, &local_bytes, &local_captured);
  const std::vector<float> roomy =
      gradients_of([](const RouterOptions& router) { return std::make_unique<RoomyDispatcher>(router); }, &roomy_bytes,
                   &roomy_captured);
  EXPECT_EQ(local, roomy);
  EXPECT_GT(std::accumulate(local.begin(), local.end(), 0.0, [](double s, float x) { return s + std::abs(x); }), 0.0);
  EXPECT_GT(roomy_bytes, local_bytes);
  EXPECT_TRUE(local_captured);
  EXPECT_FALSE(roomy_captured);
}

}  // namespace
}  // namespace deeptitan
