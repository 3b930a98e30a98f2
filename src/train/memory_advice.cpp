#include "train/memory_advice.h"

#include <algorithm>

#include "core/device_choice.h"
#include "core/error.h"
#include "core/file.h"
#include "ops/linear.h"

namespace deeptitan {
namespace {

constexpr const char* kSmallMomentsWords = "optimizer.moments_dtype = \"bf16\"";

// A way of computing more again, and its words.
struct Recomputing {
  ActivationCheckpointMode mode;
  const char* words;
};
constexpr Recomputing kCheap{ActivationCheckpointMode::kCheap, "activation_checkpoint.mode = \"cheap\""};
constexpr Recomputing kLayers{ActivationCheckpointMode::kLayer, "activation_checkpoint.mode = \"layer\""};

// Those that compute more again than the configuration does, the least first.
std::vector<Recomputing> more_than(const RunConfig& config) {
  std::vector<Recomputing> more;
  if (config.training.pair_weight_gradients) return more;  // refused together
  for (const Recomputing& way : {kCheap, kLayers}) {
    if (way.mode > config.activation_checkpoint.mode) more.push_back(way);
  }
  return more;
}

RunConfig recomputing(RunConfig config, const Recomputing& way) {
  config.activation_checkpoint.mode = way.mode;
  return config;
}

RunConfig with_small_moments(RunConfig config) {
  config.optimizer.moments_dtype = MomentsDtype::kBf16;
  return config;
}

Recomputation recomputation_of(ActivationCheckpointMode mode) {
  switch (mode) {
    case ActivationCheckpointMode::kNone:
      return Recomputation::kNothing;
    case ActivationCheckpointMode::kCheap:
      return Recomputation::kCheap;
    case ActivationCheckpointMode::kLayer:
      return Recomputation::kLayers;
  }
  fail("activation_checkpoint.mode says nothing that can be recomputed");
}

int64_t planned_bytes(const RunConfig& config, const ModelConfig& model, const RankGroups& groups) {
  return TrainingEngine(model, engine_options(config, bfloat16_is_native(), groups)).plan().total();
}

}  // namespace

Schedule schedule_of_run(const RunConfig& config, const RankGroups& groups) {
  // Without a pipeline microbatches run one by one, however many there are.
  if (!groups.pipelined()) {
    return config.training.pair_weight_gradients ? paired_weights_schedule() : one_f_one_b_schedule(1, 1);
  }
  return make_schedule(config.parallelism, groups.pipeline->size(),
                       static_cast<int>(config.microbatches_per_step() / ranks_in(groups.data)));
}

TrainingEngineOptions engine_options(const RunConfig& config, bool native, const RankGroups& groups) {
  const Device device = device_to_plan(config.training.device).device;
  const bool bf16 = config.training.dtype == TrainingDtype::kBf16 ||
                    (config.training.dtype == TrainingDtype::kAuto && (native || device.kind == DeviceKind::kCuda));
  return {.device = device,
          .compute = bf16 ? DType::kBF16 : DType::kF32,
          .seq_len = config.training.seq_len,
          .sequences = config.training.local_batch_size,
          .recomputation = recomputation_of(config.activation_checkpoint.mode),
          .next_token_prediction = config.training.mtp_loss_weight > 0,
          .auxiliary_weight = config.training.aux_loss_weight,
          .mtp_weight = config.training.mtp_loss_weight,
          .router_bias_update_speed = config.training.router_bias_update_speed,
          .max_norm = config.training.max_norm,
          .weight_decay = config.optimizer.weight_decay,
          .optimizer = config.optimizer,
          .freeze = config.training.freeze,
          .schedule = schedule_of_run(config, groups),
          .zero_stage = static_cast<int>(config.parallelism.zero_stage),
          .expert_room = config.parallelism.expert_room,
          .groups = groups};
}

std::vector<MemoryAdvice> configurations_that_fit(const RunConfig& config, const ModelConfig& model, int64_t bytes,
                                                  const RankGroups& groups) {
  std::vector<MemoryAdvice> advice;
  const auto consider = [&](const RunConfig& candidate, const std::string& change) {
    const int64_t needed = planned_bytes(candidate, model, groups);
    if (needed <= bytes) advice.push_back({change, needed});
    return needed <= bytes;
  };
  // The one that computes least again.
  const auto consider_recomputing = [&](const RunConfig& candidate, const std::string& change) {
    const std::vector<Recomputing> ways = more_than(config);
    return std::any_of(ways.begin(), ways.end(), [&](const Recomputing& way) {
      return consider(recomputing(candidate, way), change + way.words);
    });
  };
  RunConfig smaller = config;
  smaller.training.global_batch_size = config.sequences_per_step();
  for (int64_t batch = config.training.local_batch_size / 2; batch >= 1; batch /= 2) {
    if (config.sequences_per_step() % (batch * ranks_in(groups.data)) != 0) continue;
    smaller.training.local_batch_size = batch;
    const std::string change = fmt::format("training.local_batch_size = {}, training.global_batch_size = {}", batch,
                                           config.sequences_per_step());
    if (consider(smaller, change) || consider_recomputing(smaller, change + ", ")) break;
  }
  consider_recomputing(config, "");
  if (config.optimizer.moments_dtype != MomentsDtype::kBf16) {
    const RunConfig small = with_small_moments(config);
    if (!consider(small, kSmallMomentsWords) && advice.empty()) {
      consider_recomputing(small, fmt::format("{}, ", kSmallMomentsWords));
    }
  }
  RunConfig shorter = config;
  for (int64_t length = config.training.seq_len / 2; length >= 16; length /= 2) {
    shorter.training.seq_len = length;
    if (consider(shorter, fmt::format("training.seq_len = {}", length))) break;
  }
  return advice;
}

std::vector<MemoryAdvice> what_would_save(const RunConfig& config, const ModelConfig& model, int64_t bytes,
                                          const RankGroups& groups) {
  const std::string experts = "model.layers.*.mlp.experts.*";
  std::vector<MemoryAdvice> advice;
  const auto consider = [&](const RunConfig& candidate, const std::string& change) {
    const int64_t needed = planned_bytes(candidate, model, groups);
    if (needed < bytes) advice.push_back({change, needed});
  };
  const bool can_freeze = model.num_moe_layers() > 0 && config.training.freeze.empty();
  const std::string freeze_words = fmt::format("training.freeze = [\"{}\"]", experts);
  RunConfig frozen = config;
  frozen.training.freeze = {experts};
  const std::vector<Recomputing> ways = more_than(config);
  for (const Recomputing& way : ways) consider(recomputing(config, way), way.words);
  if (config.optimizer.moments_dtype != MomentsDtype::kBf16) consider(with_small_moments(config), kSmallMomentsWords);
  if (can_freeze) consider(frozen, freeze_words);
  if (can_freeze && !ways.empty()) {
    consider(recomputing(frozen, ways.back()), fmt::format("{} and {}", ways.back().words, freeze_words));
  }
  return advice;
}

void check_fits(const RunConfig& config, const ModelConfig& model, const TrainingEngine& engine, int64_t bytes,
                const RankGroups& groups) {
  const MemoryPlan& plan = engine.plan();
  if (plan.total() <= bytes) return;
  std::string message = fmt::format("the run needs {} of memory and {} are available{}; its largest arenas are {}",
                                    format_bytes(plan.total()), format_bytes(bytes),
                                    held_by_others(engine.options().device), plan.largest());
  const std::vector<MemoryAdvice> advice = configurations_that_fit(config, model, bytes, groups);
  if (advice.empty())
    message += "; no smaller microbatch, sequence length or optimizer fits: the model itself is too large";
  for (const MemoryAdvice& a : advice) message += fmt::format("; {} would need {}", a.change, format_bytes(a.bytes));
  fail_usage("{}", message);
}

}  // namespace deeptitan
