// What the engine runs forward alone: validation and samples.
#include <algorithm>
#include <numeric>

#include "comm/exchange_scope.h"
#include "core/error.h"
#include "core/transfer.h"
#include "ops/elementwise.h"
#include "ops/loss.h"
#include "train/training_engine.h"

namespace deeptitan {

double TrainingEngine::evaluate(const PackedBatch& batch, double before) {
  if (!ctx_.planning) load_batch(batch, microbatches_.size() - 1);
  const auto& [layout, targets] = microbatches_.back();
  ArenaScope workspace(*workspace_);
  const Tensor hidden = workspace.take(options_.compute, {layout.tokens(), model_.config().hidden_size});
  const Tensor loss = workspace.take(DType::kF32, {layout.tokens()});
  runner_.forward_hidden(ctx_, ForwardContext{.batch = layout, .routes = routes_}, hidden);
  fill_zero(ctx_, loss_sums_);
  if (runner_.holds_head()) {
    model_.head().loss(ctx_, loss, {}, hidden, targets.targets, nullptr, false);
    const int place = rank_in(options_.groups.data);
    accumulate_sum(ctx_, loss_sums_.rows(place, place + 1), loss);
  }
  if (ranks_in(options_.groups.world) > 1) {
    ExchangeScope exchange(ctx_);
    options_.groups.world->all_reduce(ctx_, loss_sums_);
  }
  if (ctx_.planning) return before;
  std::vector<double> sums(loss_sums_.size(0));
  ctx_.compute.copy(sums.data(), loss_sums_.raw(), loss_sums_.bytes());
  ctx_.compute.synchronize();
  return std::accumulate(sums.begin(), sums.end(), before);
}

std::vector<float> TrainingEngine::next_token_logits(std::span<const int32_t> tokens) {
  const auto count = static_cast<int64_t>(tokens.size());
  DT_CHECK(count > 0 && count <= std::min(options_.seq_len, tokens_per_microbatch()),
           "a sample needs 1 to {} tokens, found {}", options_.seq_len, count);
  BatchLayout layout = microbatches_.back().layout;
  layout.capacity = {.tokens = count, .sequences = 1, .max_query = count, .max_visible = count};
  layout.token_ids = layout.token_ids.rows(0, count);
  layout.positions = layout.positions.rows(0, count);
  layout.query_offset = document_offsets_.back().rows(0, 2);
  std::vector<int32_t> positions(count);
  std::iota(positions.begin(), positions.end(), 0);
  upload<int32_t>(layout.token_ids, tokens);
  upload<int32_t>(layout.positions, positions);
  upload<int32_t>(layout.query_offset, std::vector<int32_t>{0, static_cast<int32_t>(count)});
  ArenaScope workspace(*workspace_);
  const Tensor hidden = workspace.take(options_.compute, {count, model_.config().hidden_size});
  runner_.forward_hidden(ctx_, ForwardContext{.batch = layout}, hidden);
  fill_zero(ctx_, sample_logits_);
  if (runner_.holds_head()) model_.head().logits(ctx_, sample_logits_, hidden.rows(count - 1, count));
  add_up_stages(sample_logits_);
  return download<float>(sample_logits_);
}

}  // namespace deeptitan
