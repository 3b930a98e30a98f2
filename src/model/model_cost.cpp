#include "model/model_cost.h"

#include <string>

#include "core/arena.h"
#include "model/deepseek/deepseek_model.h"
#include "model/deepseek/deepseek_plan.h"
#include "model/stage.h"

namespace deeptitan {
namespace {

struct ParameterCount {
  int64_t all = 0;
  int64_t active = 0;
};

// The model as its layers declare it, `modules` next-token-prediction modules included.
ParameterCount declared_parameters(ModelConfig config, int64_t modules) {
  config.num_nextn_predict_layers = modules;
  const DeepseekModel model(config, {.training = true, .max_positions = 1});
  const ModelPlan plan = plan_deepseek(config);
  ParameterCount count;
  for (const Parameter& p : model.parameters().all()) {
    const int64_t size = p.numel();
    count.all += size;
    const bool looked_up = p.spec.name == plan.embedding + ".weight" && !plan.head.empty();
    if (looked_up) continue;
    count.active += p.spec.placement == ParameterPlacement::kExpert
                        ? size / config.n_routed_experts * config.num_experts_per_tok
                        : size;
  }
  return count;
}

// A model whose memory is counted and never taken, and what its ops say they would do.
class PlannedModel {
 public:
  PlannedModel(const ModelConfig& config, bool training, int64_t max_positions)
      : model_(config, {.training = training, .max_positions = max_positions}) {
    ctx_.workspace = &workspace_;
    ctx_.state = &state_;
    ctx_.planning = true;
    ctx_.profile = &profile_;
    model_.parameters().plan_values(memory_);
    model_.parameters().plan_prepared(memory_);
    model_.plan_constants(memory_);
  }

  DeepseekModel& model() { return model_; }
  ExecutionContext& ctx() { return ctx_; }
  Arena& memory() { return memory_; }
  Tensor integers(int64_t count) { return memory_.take(DType::kI32, {count}); }

  double flops() const {
    double sum = 0;
    for (const auto& [name, entry] : profile_.entries) sum += entry.flops;
    return sum;
  }

 private:
  DeepseekModel model_;
  Arena memory_{"planned"};
  Arena workspace_{"planned workspace"};
  StepState state_;
  OpProfile profile_;
  ExecutionContext ctx_;
};

// The next `tokens` tokens of a sequence that has `visible` with them.
BatchLayout one_sequence(PlannedModel& planned, int64_t tokens, int64_t visible) {
  BatchLayout batch;
  batch.capacity = {.tokens = tokens, .sequences = 1, .max_query = tokens, .max_visible = visible};
  batch.longest_position = visible;
  batch.token_ids = planned.integers(tokens);
  batch.positions = planned.integers(tokens);
  batch.query_offset = planned.integers(2);
  batch.balance_offset = planned.integers(2);
  return batch;
}

double forward_flops(PlannedModel& planned, const ForwardContext& forward) {
  const DeepseekModel& model = planned.model();
  const int64_t tokens = forward.batch.tokens();
  const Tensor hidden = planned.memory().take(model.options().compute, {tokens, model.config().hidden_size});
  planned.model().forward_hidden(planned.ctx(), forward, hidden);
  model.head().logits(planned.ctx(), planned.memory().take(DType::kF32, {tokens, model.head().vocab()}), hidden);
  return planned.flops();
}

double planned_training_flops(const ModelConfig& config, int64_t seq_len) {
  PlannedModel planned(config, true, seq_len);
  planned.model().parameters().plan_gradients(planned.memory());
  Arena gradients("planned gradients");
  const BatchLayout batch = one_sequence(planned, seq_len, seq_len);
  const Stage whole = split_into_stages(config.num_hidden_layers, 1).front();
  const auto record = planned.model().make_record(whole, {planned.memory(), gradients}, seq_len, false);
  const TrainingTargets targets{.targets = planned.integers(seq_len),
                                .next_ids = planned.integers(seq_len),
                                .next_targets = planned.integers(seq_len)};
  const ForwardContext forward{.batch = batch};
  planned.model().forward(planned.ctx(), forward, targets, *record);
  planned.model().backward(planned.ctx(), forward, targets, DeepseekModel::Backward::kBoth, *record);
  return planned.flops() / static_cast<double>(seq_len);
}

}  // namespace

ModelSize count_parameters(const ModelConfig& config) {
  const ParameterCount model = declared_parameters(config, 0);
  ModelSize size{.parameters = model.all, .active_parameters = model.active};
  for (int64_t i = 0; i < config.num_nextn_predict_layers; ++i) {
    ModelConfig before = config;  // the module stands behind one more layer
    before.num_hidden_layers += i;
    const ParameterCount without = declared_parameters(before, 0);
    const ParameterCount with = declared_parameters(before, 1);
    size.mtp_parameters += with.all - without.all;
    size.mtp_active_parameters += with.active - without.active + config.vocab_size * config.hidden_size;
  }
  return size;
}

double forward_flops_per_token(const ModelConfig& config, int64_t tokens) {
  PlannedModel planned(config, true, tokens);  // which expands keys and values of any prompt
  const BatchLayout batch = one_sequence(planned, tokens, tokens);
  return forward_flops(planned, {.batch = batch}) / static_cast<double>(tokens);
}

double decode_flops_per_token(const ModelConfig& config, int64_t cached) {
  PlannedModel planned(config, false, cached + 1);
  std::vector<LayerCache> cache;
  for (const std::vector<CacheStream>& streams : planned.model().cache_streams()) {
    cache.emplace_back();
    for (const CacheStream& stream : streams) {
      cache.back().push_back(planned.memory().take(planned.model().options().compute, {1, cached + 1, stream.width}));
    }
  }
  BatchLayout batch = one_sequence(planned, 1, cached + 1);
  batch.capacity.pages = 1;
  batch.cache_slot = planned.integers(1);
  batch.cached_length = planned.integers(1);
  batch.page_table = planned.memory().take(DType::kI32, {1, 1});
  return forward_flops(planned, {.batch = batch, .cache = cache});
}

double training_flops_per_token(const ModelConfig& config, int64_t seq_len) {
  if (config.num_nextn_predict_layers <= 1) return planned_training_flops(config, seq_len);
  // Training has one module at most; more would cost as much each.
  ModelConfig none = config;
  ModelConfig one = config;
  none.num_nextn_predict_layers = 0;
  one.num_nextn_predict_layers = 1;
  const double base = planned_training_flops(none, seq_len);
  return base + static_cast<double>(config.num_nextn_predict_layers) * (planned_training_flops(one, seq_len) - base);
}

int64_t cache_bytes_per_token(const ModelConfig& config, DType dtype) {
  const DeepseekModel model(config, {.training = false, .max_positions = 1});
  int64_t width = 0;
  for (const std::vector<CacheStream>& streams : model.cache_streams()) {
    for (const CacheStream& stream : streams) width += stream.width;
  }
  return width * static_cast<int64_t>(dtype_size(dtype));
}

}  // namespace deeptitan
