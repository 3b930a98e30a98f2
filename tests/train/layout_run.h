#pragma once

// What a run of training leaves on a layout of ranks, and what it is compared with: one rank's.

#include <cmath>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "comm/mesh.h"
#include "core/transfer.h"
#include "support/compare.h"
#include "support/tiny_model.h"
#include "train/training_engine.h"

namespace deeptitan::testing {

constexpr int64_t kRankLength = 13;
constexpr int64_t kAllSequences = 12;  // of a microbatch of all ranks
constexpr int kRankMicrobatches = 3;
constexpr int kRankSteps = 10;
constexpr int kIdleRankStep = 4;   // its tokens choose the first three experts alone
constexpr int kNotFiniteStep = 6;  // an element of the last rank's gradient is infinite
constexpr int kNoTargetsStep = 3;  // the last quarter of the sequences bears no loss
constexpr double kRankMaxNorm = 0.5;

// Sequences [first, first + count) of a microbatch.
inline PackedBatch part_of_microbatch(const ModelConfig& config, int step, int microbatch, int64_t first,
                                      int64_t count) {
  PackedBatch batch;
  batch.sequences = count;
  batch.sequence_length = kRankLength;
  for (int64_t s = first; s < first + count; ++s) {
    PackedBatch one = random_batch(config, 1, kRankLength, static_cast<uint64_t>(1000 * step + 100 * microbatch + s));
    if (step == kNoTargetsStep && s >= kAllSequences * 3 / 4) {
      one.targets.assign(one.targets.size(), -1);
      one.target_count = 0;
    }
    const auto append = [](std::vector<int32_t>& to, const std::vector<int32_t>& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(batch.tokens, one.tokens);
    append(batch.targets, one.targets);
    append(batch.positions, one.positions);
    for (size_t i = 0; i + 1 < one.document_offsets.size(); ++i) {
      batch.document_offsets.push_back(one.document_offsets[i] + static_cast<int32_t>((s - first) * kRankLength));
    }
    batch.target_count += one.target_count;
  }
  batch.document_offsets.push_back(static_cast<int32_t>(count * kRankLength));
  return batch;
}

// The experts that the tokens of all ranks choose: [step][microbatch][layer], i32 [T, K].
using Choices = std::vector<std::vector<std::vector<std::vector<int32_t>>>>;

// What a run leaves, put together from all ranks.
struct TrainedRanks {
  std::vector<double> losses, norms;
  std::vector<bool> finite;
  std::vector<int64_t> overflows;
  double validation = 0;
  std::map<std::string, std::vector<float>> gradients;  // of step 1, by a checkpoint's names
  std::map<std::string, std::vector<float>> values;     // at the end
};

// Puts what lies at `memory`, elements [begin, end) of the parameter as it lies here, where it belongs.
inline void put(std::map<std::string, std::vector<float>>& all, const Parameter& p, const float* memory, int64_t begin,
                int64_t end) {
  for (const FileTensor& tensor : p.file_tensors()) {
    const int64_t from = std::max(begin, tensor.offset), to = std::min(end, tensor.offset + tensor.numel());
    for (int64_t i = from; i < to; ++i) all.at(tensor.name)[i - tensor.offset] = memory[i - begin];
  }
}

// Calls body(parameter, memory, begin) for what this rank keeps of each gradient: elements of the parameter as it lies
// here, from `begin` on.
template <typename Body>
void kept_gradients(TrainingEngine& engine, const Body& body) {
  const ParameterList& list = engine.model().parameters();
  for (const ParameterBucket& bucket : list.buckets()) {
    const int64_t first = engine.shards().part(bucket).begin;
    for (const ParameterBucket::Member& member : bucket.members) {
      const Parameter& p = list.all()[member.parameter];
      const SlotPart part = engine.optimizer_slot(p, "first_moment");
      if (part.memory.size(0) == 0) continue;
      const int64_t begin = member.offset + part.begin - first;
      body(p, bucket.kept.rows(begin, begin + part.memory.size(0)), part.begin);
    }
  }
}

inline std::map<std::string, std::vector<float>> empty_tensors(const ModelConfig& config) {
  std::map<std::string, std::vector<float>> all;
  const DeepseekModel model(config, {.max_positions = kRankLength});
  for (const Parameter& p : model.parameters().all()) {
    for (const FileTensor& tensor : p.file_tensors()) {
      all[tensor.name].assign(static_cast<size_t>(tensor.numel()), std::numeric_limits<float>::quiet_NaN());
    }
  }
  return all;
}

// How a layout is trained.
struct RankRun {
  int steps = kRankSteps;
  bool replay = true;  // the choices are those given; else they are recorded there
  Recomputation recomputation = Recomputation::kNothing;
  int zero_stage = 1;
  int64_t bucket_elements = 1 << 24;
  double expert_room = 0;
  MomentsDtype moments = MomentsDtype::kFp32;
  Device device = {};
  DType compute = DType::kF32;
  bool on_device = false;  // rows go from kernel to kernel
  bool in_place = false;   // gradients are added up, and values fetched, from where they lie
};

// The choices of a rank's microbatch, where it computes.
class PlacedChoices {
 public:
  PlacedChoices(const TrainingEngine& engine, std::vector<std::vector<int32_t>>& of_all, int64_t first_token,
                int64_t tokens, bool replay)
      : routes_{.replay = replay, .expert_index = {}}, of_all_(of_all), first_token_(first_token) {
    const Device device = engine.options().device;
    routes_.expert_index.resize(engine.model().total_layers());
    for (const auto& [layer, experts] : engine.model().expert_layers()) {
      const int64_t top_k = experts->router().top_k;
      memory_.emplace_back("choices", device, MemoryKind::kDevice, tokens * top_k * 4);
      routes_.expert_index[layer] = Tensor(memory_.back().data(), DType::kI32, {tokens, top_k}, device);
      copy_tensor(routes_.expert_index[layer], here(layer));
    }
  }
  RouteRecord& routes() { return routes_; }
  // What was recorded.
  void give_back() {
    for (size_t layer = 0; layer < routes_.expert_index.size(); ++layer) {
      if (routes_.expert_index[layer].defined()) copy_tensor(here(layer), routes_.expert_index[layer]);
    }
  }

 private:
  Tensor here(size_t layer) {
    const Tensor& placed = routes_.expert_index[layer];
    return {of_all_[layer].data() + first_token_ * placed.size(1), DType::kI32, {placed.size(0), placed.size(1)}};
  }

  RouteRecord routes_;
  std::vector<std::vector<int32_t>>& of_all_;
  int64_t first_token_;
  std::vector<MemoryBlock> memory_;
};

// One rank's part of a run on a layout; `speaks`: of what all ranks are told, it writes down what it is told.
inline void train_rank(const Mesh& layout, const RankGroups& groups, Choices* choices, const RankRun& run, bool speaks,
                       TrainedRanks& result) {
  const ModelConfig config = twelve_experts();
  const int64_t local = kAllSequences / layout.world();
  const int rank = rank_in(groups.data);
  TrainingEngineOptions options;
  options.device = run.device;
  options.compute = run.compute;
  options.seq_len = kRankLength;
  options.sequences = local;
  options.auxiliary_weight = 0.01;
  options.max_norm = kRankMaxNorm;
  options.router_bias_update_speed = 0.01;
  options.recomputation = run.recomputation;
  options.zero_stage = run.zero_stage;
  options.bucket_elements = run.bucket_elements;
  options.expert_room = run.expert_room;
  options.optimizer.moments_dtype = run.moments;
  options.groups = groups;
  TrainingEngine engine(config, options);
  engine.allocate();
  engine.initialize(7);
  ParameterList& list = engine.model().parameters();
  for (int step = 1; step <= run.steps; ++step) {
    int64_t targets = 0;
    for (int m = 0; m < kRankMicrobatches; ++m) {
      targets += part_of_microbatch(config, step, m, 0, kAllSequences).target_count;
    }
    engine.begin_step(step, 0.01, targets, kRankMicrobatches);
    std::deque<PlacedChoices> of_microbatch;  // until the step is over, which may run again
    for (int m = 0; m < kRankMicrobatches; ++m) {
      // Before the last one, with which ranks begin to add up.
      if (step == kNotFiniteStep && m + 1 == kRankMicrobatches && rank == layout.world() - 1) {
        kept_gradients(engine, [](const Parameter&, const Tensor& memory, int64_t /*begin*/) {
          upload<float>(memory.rows(0, 1), std::vector<float>{INFINITY});
        });
      }
      of_microbatch.emplace_back(engine, (*choices)[step - 1][m], rank * local * kRankLength, local * kRankLength,
                                 run.replay || step == kIdleRankStep);
      engine.set_routes(&of_microbatch.back().routes());
      engine.add_microbatch(part_of_microbatch(config, step, m, rank * local, local));
      engine.set_routes(nullptr);
    }
    const StepResult report = engine.finish_step();
    if (!run.replay) {
      for (PlacedChoices& recorded : of_microbatch) recorded.give_back();
    }
    // In bf16 what a rank keeps may lie where new values were handed out.
    if (step == 1 && run.compute == DType::kF32) {
      kept_gradients(engine, [&](const Parameter& p, const Tensor& memory, int64_t begin) {
        put(result.gradients, p, download<float>(memory).data(), begin, begin + memory.numel());
      });
    }
    if (!speaks) continue;
    result.losses.push_back(report.loss + report.mtp_loss);
    for (const MoeLayerMetrics& layer : report.moe_layers) {
      result.losses.push_back(layer.aux_loss);
      result.losses.push_back(layer.load_max_over_mean);
      result.losses.push_back(layer.bias_range);
    }
    result.norms.push_back(report.gradient_norm);
    result.finite.push_back(report.finite);
    result.overflows.push_back(report.row_overflows);
  }
  engine.complete_values();
  for (const Parameter& p : list.all()) {
    if (p.value.defined()) put(result.values, p, download<float>(p.value).data(), 0, p.numel());
  }
  const double validation = engine.evaluate(part_of_microbatch(config, 77, 0, rank * local, local), 1.0);
  if (speaks) result.validation = validation;
}

inline Choices empty_choices() {
  const ModelConfig config = twelve_experts();
  const size_t slots = kAllSequences * kRankLength * config.num_experts_per_tok;
  Choices choices(kRankSteps,
                  {kRankMicrobatches, std::vector(config.num_hidden_layers + 1, std::vector<int32_t>(slots))});
  for (auto& microbatch : choices[kIdleRankStep - 1]) {
    for (auto& layer : microbatch) {
      for (size_t i = 0; i < slots; ++i) layer[i] = static_cast<int32_t>(i % 3);
    }
  }
  return choices;
}

// Of all steps, or of the first where there are fewer.
inline void expect_those_of_one_rank(const TrainedRanks& found, TrainedRanks one) {
  const size_t steps = found.finite.size();
  one.losses.resize(one.losses.size() / one.finite.size() * steps);
  one.finite.resize(steps);
  for (const auto& [name, gradient] : one.gradients) {
    if (std::isnan(gradient.front())) continue;  // the routers' bias has none
    EXPECT_LT(relative_error(found.gradients.at(name), gradient), 1e-6) << name;
  }
  EXPECT_EQ(found.finite, one.finite);
  ASSERT_EQ(found.losses.size(), one.losses.size());
  for (size_t i = 0; i < one.losses.size(); ++i) {
    if (std::isnan(one.losses[i])) continue;
    EXPECT_NEAR(found.losses[i], one.losses[i], 1e-5) << i;
  }
  EXPECT_NEAR(found.norms.front(), one.norms.front(), 1e-6 * one.norms.front());
  if (steps < kRankSteps) return;
  EXPECT_NEAR(found.validation, one.validation, 1e-4 * one.validation);
  for (const auto& [name, value] : one.values) EXPECT_LT(relative_error(found.values.at(name), value), 1e-3) << name;
  // The same loads move the routers' bias by the same steps.
  for (const auto& [name, value] : one.values) {
    if (!name.ends_with("e_score_correction_bias")) continue;
    EXPECT_EQ(found.values.at(name), value) << name;
  }
}

/// All that two runs left, but for gradients that are none.
inline void expect_same_bits(const TrainedRanks& found, const TrainedRanks& expected) {
  EXPECT_EQ(found.losses, expected.losses);
  EXPECT_EQ(found.norms, expected.norms);
  EXPECT_EQ(found.finite, expected.finite);
  EXPECT_EQ(found.validation, expected.validation);
  for (const auto& [name, gradient] : expected.gradients) {
    if (std::isnan(gradient.front())) continue;
    EXPECT_TRUE(found.gradients.at(name) == gradient) << name;
  }
  for (const auto& [name, value] : expected.values) EXPECT_TRUE(found.values.at(name) == value) << name;
}

}  // namespace deeptitan::testing
