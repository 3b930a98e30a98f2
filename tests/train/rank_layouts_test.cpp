// Training on every layout of 1 to 4 ranks against one rank, with threads as ranks: what the sum of a step is made of
// changes its order and nothing else.

#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/rank_layout.h"
#include "support/tiny_model.h"
#include "train/training_engine.h"

namespace deeptitan {
namespace {

using testing::meshes_of;
using testing::random_batch;
using testing::relative_error;
using testing::run_on_mesh;
using testing::twelve_experts;

constexpr int64_t kRankLength = 13;
constexpr int64_t kAllSequences = 12;  // of a microbatch of all ranks
constexpr int kRankMicrobatches = 3;
constexpr int kRankSteps = 10;
constexpr int kIdleRankStep = 4;   // its tokens choose the first three experts alone
constexpr int kNotFiniteStep = 6;  // an element of the last rank's gradient is infinite
constexpr int kNoTargetsStep = 3;  // the last quarter of the sequences bears no loss
constexpr double kRankMaxNorm = 0.5;

// Sequences [first, first + count) of a microbatch.
PackedBatch part_of_microbatch(const ModelConfig& config, int step, int microbatch, int64_t first, int64_t count) {
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
void put(std::map<std::string, std::vector<float>>& all, const Parameter& p, const float* memory, int64_t begin,
         int64_t end) {
  for (const FileTensor& tensor : p.file_tensors()) {
    const int64_t from = std::max(begin, tensor.offset), to = std::min(end, tensor.offset + tensor.numel());
    for (int64_t i = from; i < to; ++i) all.at(tensor.name)[i - tensor.offset] = memory[i - begin];
  }
}

// Calls body(parameter, memory, begin, count) for what this rank keeps of each gradient: elements of the parameter as
// it lies here.
template <typename Body>
void kept_gradients(TrainingEngine& engine, const Body& body) {
  const ParameterList& list = engine.model().parameters();
  for (const ParameterBucket& bucket : list.buckets()) {
    const int64_t first = engine.shards().part(bucket).begin;
    for (const ParameterBucket::Member& member : bucket.members) {
      const Parameter& p = list.all()[member.parameter];
      const SlotPart part = engine.optimizer_slot(p, "first_moment");
      if (part.memory.size(0) == 0) continue;
      body(p, bucket.kept.host<float>() + member.offset + part.begin - first, part.begin, part.memory.size(0));
    }
  }
}

std::map<std::string, std::vector<float>> empty_tensors(const ModelConfig& config) {
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
};

TrainedRanks train_ranks(const Mesh& layout, Choices* choices, const RankRun& run = {}) {
  const ModelConfig config = twelve_experts();
  const int64_t local = kAllSequences / layout.world();
  TrainedRanks result;
  result.gradients = result.values = empty_tensors(config);
  run_on_mesh(layout, [&](const RankGroups& groups) {
    const int rank = rank_in(groups.data);
    TrainingEngineOptions options;
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
      std::vector<RouteRecord> of_microbatch(kRankMicrobatches);  // until the step is over, which may run again
      for (int m = 0; m < kRankMicrobatches; ++m) {
        RouteRecord& routes = of_microbatch[m];
        routes = {.replay = run.replay || step == kIdleRankStep, .expert_index = {}};
        routes.expert_index.resize(engine.model().total_layers());
        for (const auto& [layer, experts] : engine.model().expert_layers()) {
          const int64_t row = kRankLength * experts->router().top_k;
          int32_t* all = (*choices)[step - 1][m][layer].data();
          routes.expert_index[layer] =
              Tensor(all + rank * local * row, DType::kI32, {local * kRankLength, experts->router().top_k});
        }
        engine.set_routes(&routes);
        engine.add_microbatch(part_of_microbatch(config, step, m, rank * local, local));
        engine.set_routes(nullptr);
      }
      if (step == kNotFiniteStep && rank == layout.world() - 1) {
        kept_gradients(
            engine, [](const Parameter&, float* memory, int64_t /*begin*/, int64_t /*count*/) { *memory = INFINITY; });
      }
      const StepResult report = engine.finish_step();
      if (step == 1) {
        kept_gradients(engine, [&](const Parameter& p, float* memory, int64_t begin, int64_t count) {
          put(result.gradients, p, memory, begin, begin + count);
        });
      }
      if (rank != 0) continue;
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
    for (const Parameter& p : list.all()) {
      if (p.value.defined()) put(result.values, p, p.value.host<float>(), 0, p.numel());
    }
    const double validation = engine.evaluate(part_of_microbatch(config, 77, 0, rank * local, local), 1.0);
    if (rank == 0) result.validation = validation;
  });
  return result;
}

Choices empty_choices() {
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

// One rank's run, and what its tokens chose.
struct Expected {
  Choices choices = empty_choices();
  TrainedRanks run = train_ranks({}, &choices, {.replay = false});
};
Expected& expected() {
  static Expected one_rank;
  return one_rank;
}

TEST(RankLayouts, TheReferenceClipsSkipsAndLearns) {
  const TrainedRanks& one = expected().run;
  for (int step = 1; step <= kRankSteps; ++step) EXPECT_EQ(one.finite[step - 1], step != kNotFiniteStep) << step;
  EXPECT_GT(one.norms.front(), kRankMaxNorm);
  EXPECT_GT(one.norms.back(), kRankMaxNorm);
}

// Of all steps, or of the first where there are fewer.
void expect_those_of_one_rank(const TrainedRanks& found) {
  TrainedRanks one = expected().run;
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

TEST(RankLayouts, GradientsAndLossesAreThoseOfOneRank) {
  for (const Mesh& layout : meshes_of({2, 3, 4})) {
    SCOPED_TRACE(layout.describe());
    expect_those_of_one_rank(train_ranks(layout, &expected().choices));
  }
}

// In buckets so small that many share their memory.
TEST(RankLayouts, GradientsInPartsAreThoseOfOneRank) {
  for (const Mesh& layout :
       {Mesh{.dp_shard = 2}, Mesh{.ep = 2}, Mesh{.ep = 2, .dp_shard = 2}, Mesh{.dp_shard = 2, .dp_replicate = 2}}) {
    SCOPED_TRACE(layout.describe());
    expect_those_of_one_rank(train_ranks(layout, &expected().choices, {.zero_stage = 2, .bucket_elements = 600}));
  }
}

// Before the first update all is equal but for sums that no choice depends on; later rounding turns what is nearly
// even.
TEST(RankLayouts, ChoicesThatNobodyHoldsDifferWhereTheyAreNearlyEven) {
  for (const Mesh& layout : {Mesh{.dp_shard = 3}, Mesh{.ep = 2, .dp_shard = 2}}) {
    SCOPED_TRACE(layout.describe());
    Choices found = empty_choices();
    train_ranks(layout, &found, {.replay = false});
    EXPECT_EQ(found[0], expected().choices[0]);
    int64_t turned = 0, all = 0;
    for (size_t step = 1; step < found.size(); ++step) {
      for (size_t m = 0; m < found[step].size(); ++m) {
        for (size_t layer = 0; layer < found[step][m].size(); ++layer) {
          for (size_t i = 0; i < found[step][m][layer].size(); ++i, ++all) {
            turned += found[step][m][layer][i] != expected().choices[step][m][layer][i] ? 1 : 0;
          }
        }
      }
    }
    RecordProperty("turned", std::to_string(turned) + " of " + std::to_string(all));
    EXPECT_LT(turned, all / 200);
  }
}

// Room for the mean: some rank's experts get more in nearly every step, and the step is run again in slices that fit.
TEST(RankLayouts, RowsThatOverflowAreRunAgainInSlices) {
  for (const Mesh& layout : {Mesh{.ep = 2}, Mesh{.ep = 2, .dp_shard = 2}}) {
    SCOPED_TRACE(layout.describe());
    const TrainedRanks found = train_ranks(layout, &expected().choices, {.steps = 5, .expert_room = 1.0});
    EXPECT_EQ(found.overflows[kIdleRankStep - 1], 1);
    expect_those_of_one_rank(found);
    const TrainedRanks roomy = train_ranks(layout, &expected().choices, {.steps = 2, .expert_room = 1.99});
    EXPECT_EQ(roomy.overflows, (std::vector<int64_t>{0, 0}));
  }
}

TEST(RankLayouts, GradientsInPartsTakeLessMemory) {
  run_on_mesh({.dp_shard = 2}, [](const RankGroups& groups) {
    const auto gradient_bytes = [&](int zero_stage) {
      TrainingEngineOptions options;
      options.seq_len = kRankLength;
      options.sequences = 1;
      options.zero_stage = zero_stage;
      options.bucket_elements = 600;
      options.groups = groups;
      ModelConfig config = twelve_experts();
      config.num_hidden_layers = 10;
      const TrainingEngine engine(config, options);
      for (const PlannedArena& arena : engine.plan().arenas) {
        if (arena.name == "gradients") return arena.bytes;
      }
      return int64_t{0};
    };
    // Half of it, and what few layers have at once.
    EXPECT_LT(gradient_bytes(2), gradient_bytes(1) * 3 / 4);
  });
}

// What the sums of each group take beside their tensors.
TEST(RankLayouts, WhatRanksExchangeThroughIsPlanned) {
  run_on_mesh({.dp_shard = 2}, [](const RankGroups& groups) {
    TrainingEngineOptions options;
    options.seq_len = kRankLength;
    options.sequences = 1;
    options.groups = groups;
    const TrainingEngine engine(twelve_experts(), options);
    int64_t planned = 0;
    for (const PlannedArena& arena : engine.plan().arenas) {
      if (arena.name == "exchange between ranks") planned = arena.bytes;
    }
    // Of all ranks, those with sequences of their own, and those that share the state of the experts and of the rest.
    EXPECT_EQ(planned, 4 * (int64_t{8} << 20));
  });
}

TEST(RankLayouts, RunToRunTheSameBits) {
  for (const Mesh& layout : {Mesh{.ep = 2, .dp_shard = 2}, Mesh{.ep = 3}}) {
    const TrainedRanks first = train_ranks(layout, &expected().choices, {.steps = 5});
    const TrainedRanks second = train_ranks(layout, &expected().choices, {.steps = 5});
    EXPECT_EQ(first.losses, second.losses) << layout.describe();
    EXPECT_EQ(first.values, second.values) << layout.describe();
    EXPECT_EQ(first.validation, second.validation) << layout.describe();
  }
}

// Two ranks' gradients are added up to the same bits whoever keeps what; so then are moments that are rounded at
// random.
TEST(RankLayouts, MomentsInBf16AreTheSameBitsInPartsOrWhole) {
  const RankRun run{.steps = 5, .moments = MomentsDtype::kBf16};
  const TrainedRanks whole = train_ranks({.dp_replicate = 2}, &expected().choices, run);
  const TrainedRanks in_parts = train_ranks({.dp_shard = 2}, &expected().choices, run);
  EXPECT_EQ(whole.values, in_parts.values);
  EXPECT_EQ(whole.losses, in_parts.losses);
  EXPECT_NE(whole.values, train_ranks({.dp_shard = 2}, &expected().choices, {.steps = 5}).values);
}

TEST(RankLayouts, WhatIsRecomputedHasTheSameBits) {
  for (const Mesh& layout : {Mesh{.ep = 2, .dp_shard = 2}, Mesh{.dp_shard = 2}}) {
    const TrainedRanks kept = train_ranks(layout, &expected().choices, {.steps = 2});
    for (const Recomputation what : {Recomputation::kCheap, Recomputation::kLayers}) {
      const TrainedRanks recomputed = train_ranks(layout, &expected().choices, {.steps = 2, .recomputation = what});
      EXPECT_EQ(kept.values, recomputed.values) << layout.describe();
    }
  }
}

}  // namespace
}  // namespace deeptitan
