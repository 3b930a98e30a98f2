#include "model/deepseek/deepseek_model.h"

#include <algorithm>

#include "core/error.h"
#include "model/deepseek/deepseek_plan.h"
#include "ops/elementwise.h"
#include "ops/loss.h"
#include "ops/moe.h"

namespace deeptitan {
namespace {

// What stands before and behind the layers of some stages.
Stage parts_of(const std::vector<Stage>& stages) {
  Stage parts;
  for (const Stage& stage : stages) {
    parts.embedding |= stage.embedding;
    parts.head |= stage.head;
    parts.mtp |= stage.mtp;
  }
  return parts;
}

bool holds_layer(const std::vector<Stage>& stages, int64_t layer) {
  return stages.empty() || std::any_of(stages.begin(), stages.end(), [&](const Stage& stage) {
           return stage.first_layer <= layer && layer < stage.end_layer;
         });
}

// The CPU's bf16 products take two neighbours along the contracted dimension at once.
void check_even_sizes(const ModelConfig& c, const ModelOptions& options) {
  if (options.compute != DType::kBF16) return;
  const std::pair<const char*, int64_t> sizes[] = {{"hidden_size", c.hidden_size},
                                                   {"intermediate_size", c.intermediate_size},
                                                   {"moe_intermediate_size", c.moe_intermediate_size},
                                                   {"q_lora_rank", c.q_lora_rank},
                                                   {"kv_lora_rank", c.kv_lora_rank},
                                                   {"qk_nope_head_dim", c.qk_nope_head_dim},
                                                   {"qk_rope_head_dim", c.qk_rope_head_dim},
                                                   {"v_head_dim", c.v_head_dim},
                                                   {"vocab_size", options.training ? c.vocab_size : 0}};
  for (const auto& [name, size] : sizes) {
    DT_CHECK_USAGE(size % 2 == 0, "{} = {}: bf16 needs even sizes; choose an even one, or compute in fp32", name, size);
  }
}

}  // namespace

DeepseekModel::DeepseekModel(const ModelConfig& config, const ModelOptions& options)
    : config_(config),
      options_(options),
      parameters_(options.training, options.compute, options.experts),
      rope_(config, options.max_positions) {
  check_even_sizes(config, options);
  parameters_.set_expert_products(options.expert_products);
  if (!options.stages.empty()) {
    ModelOptions all = options;
    all.stages = {};
    all.experts = {};
    all.make_dispatcher = make_local_dispatcher;
    whole_ = std::make_unique<DeepseekModel>(config, all);
  }
  const ModelPlan plan = plan_deepseek(config);
  if (options.training && options.next_token_prediction) {
    DT_CHECK_USAGE(config.num_nextn_predict_layers <= 1,
                   "num_nextn_predict_layers = {}: at most one next-token-prediction module is supported",
                   config.num_nextn_predict_layers);
    next_token_modules_ = static_cast<int64_t>(plan.next_token_prediction.size());
  }
  const Stage here = parts_of(options.stages.empty() ? split_into_stages(config.num_hidden_layers, 1) : options.stages);
  const bool tied = plan.head.empty();
  if (here.embedding || (here.head && tied) || (here.mtp && next_token_modules_ > 0)) {
    embedding_ = parameters_.declare(
        {.name = plan.embedding + ".weight", .shape = {config.vocab_size, config.hidden_size}, .direct = true});
  }
  const LayerContext context{
      .rope = rope_, .auxiliary_weight = options.auxiliary_weight, .make_dispatcher = options.make_dispatcher};
  for (const LayerPlan& layer : plan.layers) {
    layers_.push_back(holds_layer(options.stages, static_cast<int64_t>(layers_.size()))
                          ? make_decoder_layer(parameters_, layer, context)
                          : nullptr);
    layer_ends_.push_back(parameters_.all().size());
  }
  if (here.head) {
    final_norm_.emplace(parameters_, plan.final_norm, config.hidden_size, config.rms_norm_eps);
    head_begin_ = parameters_.all().size();
    head_.emplace(
        tied ? LinearLayer(parameters_, embedding_, options.compute)
             : LinearLayer(parameters_, plan.head, config.vocab_size, config.hidden_size, {.operand = options.compute}),
        options.compute);
  }
  modules_begin_ = parameters_.all().size();
  for (int64_t i = 0; here.mtp && i < next_token_modules_; ++i) {
    mtp_.push_back(
        std::make_unique<NextTokenPrediction>(parameters_, plan.next_token_prediction[i], context, embedding_));
  }
}

std::unique_ptr<DeepseekModel::StageRecord> DeepseekModel::make_record(const Stage& stage, const RecordArenas& arenas,
                                                                       int64_t tokens, bool weights_put_off) const {
  const bool whole_layers = options_.recomputation == Recomputation::kLayers;
  const bool cheap = options_.recomputation == Recomputation::kCheap;
  DT_CHECK_USAGE(!weights_put_off || !whole_layers,
                 "layers that are recomputed need a schedule that ends a layer's backward at once; use 1f1b, or "
                 "recompute only what is cheap");
  DT_CHECK(!cheap || arenas.recomputed != nullptr, "what is cheap to recompute has an arena of its own");
  auto record = std::make_unique<StageRecord>();
  record->stage = stage;
  const auto state = [&](Arena& arena) { return arena.take(options_.compute, {tokens, config_.hidden_size}); };
  for (int64_t i = 0; i <= stage.layers(); ++i) record->hidden.push_back(state(arenas.saved));
  if (stage.head) {
    record->normed = state(arenas.saved);
    record->rstd = arenas.saved.take(DType::kF32, {tokens});
    record->d_normed = state(arenas.saved);
    record->loss = arenas.saved.take(DType::kF32, {tokens});
  }
  const size_t gradients_alive = weights_put_off ? record->hidden.size() : 2;
  while (record->d_hidden.size() < gradients_alive) record->d_hidden.push_back(state(arenas.saved));

  // Layers use the gradient arena one after another, so they share it; recomputed layers share the saved one as well,
  // with those of other records where these have an arena for it.
  const bool all_share = whole_layers && arenas.recomputed != nullptr;
  const int64_t gradients = arenas.gradients.mark();
  const int64_t saved = all_share ? 0 : arenas.saved.mark();
  const auto add = [&](auto& list, const auto& layer, Arena& memory, bool shares) {
    if (!weights_put_off) arenas.gradients.share_from(gradients);
    if (shares) memory.share_from(saved);
    if (cheap) arenas.recomputed->share_from(0);
    list.push_back(layer.make_record({memory, arenas.gradients, cheap ? arenas.recomputed : nullptr}, tokens));
  };
  for (int64_t i = stage.first_layer; i < stage.end_layer; ++i) {
    add(record->layers, *layers_[i], all_share ? *arenas.recomputed : arenas.saved, whole_layers);
  }
  // A module's backward comes before the layers', so it may share with recomputed layers too; not with those of other
  // records, which come between its forward and its backward.
  if (stage.mtp) {
    for (const auto& module : mtp_) add(record->mtp, *module, arenas.saved, whole_layers && !all_share);
  }
  if (!weights_put_off) arenas.gradients.share_from(gradients);
  return record;
}

void DeepseekModel::plan_statistics(StepStatistics& statistics, Arena& arena) const {
  statistics.plan_report(arena);
  for (const auto& [layer, experts] : expert_layers()) statistics.plan_load(arena, layer, experts->router().experts);
}

void DeepseekModel::begin_step(ExecutionContext& ctx) {
  for (Parameter& p : parameters_.all()) begin_gradient(ctx, p);
}

void DeepseekModel::end_step(ExecutionContext& ctx) {
  for (Parameter& p : parameters_.all()) end_gradient(ctx, p);
}

void DeepseekModel::begin_gradient(ExecutionContext& ctx, Parameter& parameter) {
  parameter.gradient_written = &parameter == embedding_ && parameter.gradient.defined();
  if (parameter.gradient_written) fill_zero(ctx, parameter.gradient);
}

void DeepseekModel::end_gradient(ExecutionContext& ctx, Parameter& parameter) {
  if (parameter.gradient.defined() && !parameter.accumulate_gradient()) fill_zero(ctx, parameter.gradient);
}

GradientTime DeepseekModel::gradient_time(size_t parameter) const {
  const auto layers = static_cast<int64_t>(layers_.size());
  // The embedding's table is cleared before the forward, and a head that is tied to it or a module may write first.
  if (&parameters_.all()[parameter] == embedding_) return {.first = 0, .complete = gradient_time_of_layer(-1)};
  const auto layer = std::upper_bound(layer_ends_.begin(), layer_ends_.end(), parameter) - layer_ends_.begin();
  int64_t time = gradient_time_of_layer(layer);  // of what is behind the layers: the final norm's
  if (layer == layers && parameter >= head_begin_) time = GradientTime::kHead;
  if (layer == layers && parameter >= modules_begin_) time = GradientTime::kModules;
  return {.first = time, .complete = time};
}

void DeepseekModel::forward(ExecutionContext& ctx, const ForwardContext& forward, const TrainingTargets& targets,
                            StageRecord& record) {
  const Stage& stage = record.stage;
  if (!ctx.planning) rope_.fill(forward.batch.longest_position);
  if (stage.embedding) embedding(ctx, record.hidden[0], embedding_->value, forward.batch.token_ids);
  for (int64_t i = 0; i < stage.layers(); ++i) {
    layers_[stage.first_layer + i]->forward(ctx, forward, record.hidden[i + 1], record.hidden[i],
                                            record.layers[i].get());
  }
  last_forward_ = &record;
  if (!stage.head) return;
  StepState& state = *ctx.state;  // an address on the device
  const auto sum = [&](double& to) { accumulate_sum(ctx, Tensor(&to, DType::kF64, {1}, ctx.device), record.loss); };
  final_norm_->forward(ctx, record.normed, record.rstd, record.hidden.back());
  head_->loss(ctx, record.loss, record.d_normed, record.normed, targets.targets, &state.in.target_scale, false);
  sum(state.out.loss_sum);
  for (size_t i = 0; i < record.mtp.size(); ++i) {
    mtp_[i]->forward(ctx, forward, record.loss, record.normed, targets.next_ids, targets.next_targets, *head_,
                     &state.in.mtp_scale, *record.mtp[i]);
    sum(state.out.mtp_loss_sum);
  }
  if (forward.gradients != nullptr) forward.gradients->completed(ctx, GradientTime::kHead);
}

void DeepseekModel::backward(ExecutionContext& ctx, const ForwardContext& forward, const TrainingTargets& targets,
                             Backward what, StageRecord& record) {
  const Stage& stage = record.stage;
  const bool of_input = what != Backward::kWeights;
  const bool of_weights = what != Backward::kInput;
  const int64_t layers = stage.layers();
  const bool cheap = options_.recomputation == Recomputation::kCheap;
  const auto completed = [&](int64_t time) {
    if (forward.gradients != nullptr) forward.gradients->completed(ctx, time);
  };
  if (stage.head && of_input) {
    // A module's backward is whole: what it adds to weights does not wait.
    for (size_t i = 0; i < record.mtp.size(); ++i) {
      if (cheap) mtp_[i]->recompute(ctx, forward, record.normed, *record.mtp[i]);
      mtp_[i]->backward(ctx, forward, record.d_normed, record.normed, targets.next_ids, *record.mtp[i]);
    }
    completed(GradientTime::kModules);
    final_norm_->backward_input(ctx, record.gradient(layers), record.d_normed, record.hidden[layers], record.rstd,
                                false);
  }
  if (stage.head && of_weights) {
    final_norm_->backward_weights(ctx, record.d_normed, record.hidden[layers], record.rstd);
    completed(GradientTime::kFinalNorm);
  }
  for (int64_t i = layers - 1; i >= 0; --i) {
    const DecoderLayer& layer = *layers_[stage.first_layer + i];
    Record& of_layer = *record.layers[i];
    // The last layer's record is as the forward left it, unless a module or another record has shared its memory.
    const bool as_left = i + 1 == layers && record.mtp.empty() && last_forward_ == &record;
    if (of_input && options_.recomputation == Recomputation::kLayers && !as_left) {
      last_forward_ = nullptr;
      // The same kernels on the same input: the same bits, and nothing counted twice.
      ForwardContext again = forward;
      again.auxiliary = nullptr;
      ArenaScope workspace(*ctx.workspace);
      const Tensor out = workspace.take(options_.compute, {forward.batch.tokens(), config_.hidden_size});
      layer.forward(ctx, again, out, record.hidden[i], &of_layer);
    }
    // Gradients of weights are made of it; and slices of experts begin from their layer's normed input.
    if (cheap && (of_weights || forward.experts_in_slices)) layer.recompute(ctx, forward, record.hidden[i], of_layer);
    if (of_input) {
      layer.backward_input(ctx, forward, record.gradient(i), record.gradient(i + 1), record.hidden[i], of_layer);
    }
    if (!of_weights) continue;
    layer.backward_weights(ctx, forward, record.gradient(i + 1), record.hidden[i], of_layer);
    completed(gradient_time_of_layer(stage.first_layer + i));
  }
  if (!stage.embedding || !of_weights) return;
  if (embedding_->gradient.defined()) {
    if (!embedding_->accumulate_gradient()) fill_zero(ctx, embedding_->gradient);
    embedding_backward(ctx, embedding_->gradient, record.gradient(0), forward.batch.token_ids);
  }
  completed(gradient_time_of_layer(-1));
}

void DeepseekModel::forward_stage(ExecutionContext& ctx, const ForwardContext& forward, const Stage& stage,
                                  const Tensor& out, const Tensor& in) {
  const int64_t tokens = forward.batch.tokens();
  check_tensor(out, "the state behind a stage", options_.compute, {tokens, config_.hidden_size});
  if (!ctx.planning) rope_.fill(forward.batch.longest_position);
  ArenaScope workspace(*ctx.workspace);
  Tensor from = workspace.take(options_.compute, {tokens, config_.hidden_size});
  Tensor to = workspace.take(options_.compute, {tokens, config_.hidden_size});
  if (stage.embedding) {
    embedding(ctx, from, embedding_->value, forward.batch.token_ids);
  } else {
    copy(ctx, from, in);
  }
  for (int64_t i = stage.first_layer; i < stage.end_layer; ++i) {
    layers_[i]->forward(ctx, forward, to, from, nullptr);
    std::swap(from, to);
  }
  if (stage.head) {
    final_norm_->forward(ctx, out, {}, from);
  } else {
    copy(ctx, out, from);
  }
}

void DeepseekModel::forward_hidden(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& hidden) {
  forward_stage(ctx, forward, split_into_stages(config_.num_hidden_layers, 1).front(), hidden, {});
}

std::vector<std::vector<CacheStream>> DeepseekModel::cache_streams() const {
  std::vector<std::vector<CacheStream>> streams;
  for (const auto& layer : layers_) {
    streams.push_back(layer == nullptr ? std::vector<CacheStream>() : layer->cache_streams());
  }
  return streams;
}

std::vector<std::pair<int64_t, const MixtureOfExperts*>> DeepseekModel::expert_layers() const {
  std::vector<std::pair<int64_t, const MixtureOfExperts*>> result;
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (layers_[i] != nullptr && layers_[i]->experts() != nullptr)
      result.emplace_back(static_cast<int64_t>(i), layers_[i]->experts());
  }
  for (size_t i = 0; i < mtp_.size(); ++i) {
    if (mtp_[i]->layer().experts() != nullptr) {
      result.emplace_back(static_cast<int64_t>(layers_.size() + i), mtp_[i]->layer().experts());
    }
  }
  return result;
}

bool DeepseekModel::can_be_captured(int64_t tokens) const {
  for (const auto& [layer, experts] : expert_layers()) {
    if (!experts->dispatcher().can_be_captured(tokens)) return false;
  }
  return true;
}

bool DeepseekModel::rows_may_overflow(int64_t tokens) const {
  for (const auto& [layer, experts] : expert_layers()) {
    if (experts->dispatcher().tokens_that_fit(tokens) < tokens) return true;
  }
  return false;
}

}  // namespace deeptitan
