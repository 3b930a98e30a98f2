#include "train/training_engine.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/device_choice.h"
#include "core/error.h"
#include "core/transfer.h"
#include "model/deepseek/checkpoint.h"
#include "ops/elementwise.h"
#include "train/freeze.h"

namespace deeptitan {
namespace {

ModelOptions model_options(const TrainingEngineOptions& o) {
  return {.compute = o.compute,
          .max_positions = o.seq_len,
          .recompute_layers = o.recompute_layers,
          .next_token_prediction = o.next_token_prediction,
          .auxiliary_weight = o.auxiliary_weight,
          .mtp_weight = o.mtp_weight};
}

}  // namespace

TrainingEngine::TrainingEngine(const ModelConfig& config, const TrainingEngineOptions& options)
    : options_(options),
      model_(config, model_options(options)),
      statistics_(model_.total_layers()),
      optimizer_(std::make_unique<AdamW>(options.adamw), options.weight_decay) {
  const auto arena = [&](const char* name) {
    arenas_.push_back(std::make_unique<Arena>(name, options_.device));
    return arenas_.back().get();
  };
  parameters_ = arena("parameters");
  gradients_ = arena("gradients");
  optimizer_memory_ = arena("optimizer");
  prepared_ = arena("prepared weights");
  activations_ = arena("activations");
  activation_gradients_ = arena("activation gradients");
  inputs_ = arena("inputs and tables");
  workspace_ = arena("workspace");
  ctx_.device = options_.device;
  ctx_.workspace = workspace_;
  ctx_.state = &state_;

  freeze_parameters(model_.parameters(), options_.freeze);
  ctx_.planning = true;
  take_memory();
  PackedBatch batch;
  batch.reset(options_.sequences, options_.seq_len);
  begin_step(1, 0.0, 1, 1);
  model_.forward_backward(ctx_, forward_context(true), training_targets_, *record_, &mtp_loss_sum_);
  finish_step();
  evaluate(batch);
  ctx_.planning = false;
  plan_ = plan_of(arenas_);
}

TrainingEngine::~TrainingEngine() = default;

void TrainingEngine::take_memory() {
  const int64_t tokens = tokens_per_microbatch();
  ParameterList& list = model_.parameters();
  list.plan_values(*parameters_);
  list.plan_gradients(*gradients_);
  list.plan_prepared(*prepared_);
  model_.plan_constants(*inputs_);
  model_.plan_statistics(statistics_, *inputs_);
  optimizer_.plan(list, *optimizer_memory_);
  record_ = model_.make_training_record({*activations_, *activation_gradients_}, tokens);
  for (Tensor* t : {&token_ids_, &targets_, &positions_, &next_ids_, &next_targets_})
    *t = inputs_->take(DType::kI32, {tokens});
  document_offset_ = inputs_->take(DType::kI32, {tokens + 1});
  sample_logits_ = inputs_->take(DType::kF32, {1, model_.head().vocab()});
  sequence_offset_ = inputs_->take(DType::kI32, {options_.sequences + 1});

  layout_.tokens = tokens;
  layout_.fresh_tokens = tokens;
  layout_.longest_position = options_.seq_len;
  layout_.token_ids = token_ids_;
  layout_.positions = positions_;
  layout_.documents = {document_offset_, options_.seq_len};
  layout_.sequence_offset = sequence_offset_;
  training_targets_ = {.targets = targets_, .next_ids = next_ids_, .next_targets = next_targets_};
}

void TrainingEngine::allocate() {
  use_device(options_.device);
  ctx_.compute = Stream(options_.device);
  for (const auto& arena : arenas_) arena->allocate();
  take_memory();
  std::vector<int32_t> offsets;
  for (int64_t s = 0; s <= options_.sequences; ++s) offsets.push_back(static_cast<int32_t>(s * options_.seq_len));
  upload<int32_t>(sequence_offset_, offsets);
}

void TrainingEngine::initialize(uint64_t seed) {
  load(std::make_shared<DrawnValues>(seed, model_.config().initializer_range));
}

void TrainingEngine::load(std::shared_ptr<const ModelDirectory> directory) {
  load_weights(ctx_, std::move(directory), model_);
}

void TrainingEngine::load(std::shared_ptr<const ParameterSource> source) {
  model_.parameters().load(ctx_, std::move(source));
}

void TrainingEngine::refresh() {
  model_.parameters().refresh(ctx_);
}

ForwardContext TrainingEngine::forward_context(bool training) {
  ForwardContext forward{.batch = layout_};
  forward.routes = routes_;
  if (training) {
    forward.auxiliary = &statistics_;
    forward.auxiliary_gradient_scale = 1.0 / static_cast<double>(step_tokens_);
  }
  return forward;
}

void TrainingEngine::load_batch(const PackedBatch& batch) {
  const int64_t tokens = tokens_per_microbatch();
  DT_CHECK(batch.sequences == options_.sequences && batch.sequence_length == options_.seq_len,
           "expected a batch of {} sequences of {} tokens, found {} of {}", options_.sequences, options_.seq_len,
           batch.sequences, batch.sequence_length);
  layout_.documents.offset = document_offset_.rows(0, static_cast<int64_t>(batch.document_offsets.size()));
  upload<int32_t>(token_ids_, batch.tokens);
  upload<int32_t>(targets_, batch.targets);
  upload<int32_t>(positions_, batch.positions);
  upload<int32_t>(layout_.documents.offset, batch.document_offsets);
  std::vector<int32_t> next_ids(tokens), next_targets(tokens);
  shift_targets(batch, next_ids, next_targets);
  upload<int32_t>(next_ids_, next_ids);
  upload<int32_t>(next_targets_, next_targets);
}

void TrainingEngine::begin_step(int64_t step, double learning_rate, int64_t target_tokens, int64_t microbatches) {
  state_ = {.step = step, .learning_rate = learning_rate};
  loss_sum_ = 0;
  mtp_loss_sum_ = 0;
  target_tokens_ = target_tokens;
  step_tokens_ = microbatches * tokens_per_microbatch();
  training_targets_.gradient_scale = 1.0 / static_cast<double>(std::max<int64_t>(1, target_tokens));
  if (ctx_.planning) return;
  statistics_.reset();
  for (const Tensor& gradient : gradients()) fill_zero(ctx_, gradient);
}

void TrainingEngine::add_microbatch(const PackedBatch& batch) {
  load_batch(batch);
  loss_sum_ += model_.forward_backward(ctx_, forward_context(true), training_targets_, *record_, &mtp_loss_sum_);
}

std::vector<Tensor> TrainingEngine::gradients() const {
  std::vector<Tensor> result;
  for (const Parameter& p : model_.parameters().all()) {
    if (p.gradient.defined()) result.push_back(p.gradient);
  }
  return result;
}

StepResult TrainingEngine::finish_step() {
  StepResult result;
  const double scale = training_targets_.gradient_scale;
  result.loss = loss_sum_ * scale;
  result.mtp_loss = mtp_loss_sum_ * scale;
  double squares = 0;
  for (const Tensor& gradient : gradients()) squares += sum_of_squares(ctx_, gradient);
  result.gradient_norm = std::sqrt(squares);
  result.finite = std::isfinite(result.loss) && std::isfinite(result.mtp_loss) && std::isfinite(result.gradient_norm);
  state_.valid = result.finite ? 1 : 0;
  if (options_.max_norm > 0 && result.gradient_norm > options_.max_norm) {
    state_.gradient_scale = static_cast<float>(options_.max_norm / (result.gradient_norm + 1e-6));
  }
  ParameterList& list = model_.parameters();
  optimizer_.update(ctx_, list);
  for (const auto& [layer, experts] : model_.expert_layers()) {
    if (experts->router_bias() == nullptr || experts->router_bias()->frozen) continue;
    update_router_bias(ctx_, experts->router_bias()->value, statistics_.expert_load(layer),
                       options_.router_bias_update_speed);
  }
  if (state_.valid != 0) list.refresh(ctx_);
  if (!ctx_.planning) result.moe_layers = moe_metrics();
  return result;
}

std::vector<MoeLayerMetrics> TrainingEngine::moe_metrics() {
  std::vector<MoeLayerMetrics> metrics;
  for (const auto& [layer, experts] : model_.expert_layers()) {
    const Tensor load = statistics_.expert_load(layer);
    const std::vector<int32_t> counts = download<int32_t>(load);
    const int32_t* count = counts.data();
    const int64_t n = load.numel();
    const double mean = static_cast<double>(std::accumulate(count, count + n, int64_t{0})) / static_cast<double>(n);
    MoeLayerMetrics entry{.layer = layer};
    entry.load_max_over_mean = mean == 0 ? 0.0 : *std::max_element(count, count + n) / mean;
    entry.experts_without_tokens = std::count(count, count + n, 0);
    if (const Parameter* bias = experts->router_bias()) {
      const std::vector<float> values = download<float>(bias->value);
      const auto [low, high] = std::minmax_element(values.begin(), values.end());
      entry.bias_range = *high - *low;
    }
    if (options_.auxiliary_weight > 0) {
      entry.aux_loss = *statistics_.balance_loss(layer) / options_.auxiliary_weight / static_cast<double>(step_tokens_);
    }
    metrics.push_back(entry);
  }
  return metrics;
}

double TrainingEngine::evaluate(const PackedBatch& batch) {
  if (!ctx_.planning) load_batch(batch);
  ArenaScope workspace(*workspace_);
  const Tensor hidden = workspace.take(options_.compute, {layout_.tokens, model_.config().hidden_size});
  const Tensor loss = workspace.take(DType::kF32, {layout_.tokens});
  model_.forward_hidden(ctx_, forward_context(false), hidden);
  model_.head().loss(ctx_, loss, {}, hidden, targets_, 0.0, false);
  return sum_fixed_order(ctx_, loss);
}

std::vector<float> TrainingEngine::next_token_logits(std::span<const int32_t> tokens) {
  const auto count = static_cast<int64_t>(tokens.size());
  DT_CHECK(count > 0 && count <= std::min(options_.seq_len, tokens_per_microbatch()),
           "a sample needs 1 to {} tokens, found {}", options_.seq_len, count);
  BatchLayout layout = layout_;
  layout.tokens = count;
  layout.fresh_tokens = count;
  layout.token_ids = token_ids_.rows(0, count);
  layout.positions = positions_.rows(0, count);
  layout.documents.offset = document_offset_.rows(0, 2);
  std::vector<int32_t> positions(count);
  std::iota(positions.begin(), positions.end(), 0);
  upload<int32_t>(layout.token_ids, tokens);
  upload<int32_t>(layout.positions, positions);
  upload<int32_t>(layout.documents.offset, std::vector<int32_t>{0, static_cast<int32_t>(count)});
  ArenaScope workspace(*workspace_);
  const Tensor hidden = workspace.take(options_.compute, {count, model_.config().hidden_size});
  model_.forward_hidden(ctx_, ForwardContext{.batch = layout}, hidden);
  model_.head().logits(ctx_, sample_logits_, hidden.rows(count - 1, count));
  return download<float>(sample_logits_);
}

}  // namespace deeptitan
