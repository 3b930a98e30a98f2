// Stages of one model in one process, in every schedule's order: the bits of one stage.

#include "train/stage_runner.h"

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "parallel/every_schedule.h"
#include "support/compare.h"
#include "support/expect_error.h"
#include "support/tiny_model.h"
#include "train/run_ranks.h"
#include "train/training_engine.h"

namespace deeptitan {
namespace {

using testing::random_batch;
using testing::relative_error;
using testing::tiny_v2;
using testing::tiny_v3;

constexpr int64_t kStageLength = 21;
constexpr int kMicrobatches = 6;

ModelConfig four_layers(ModelConfig config) {
  config.num_hidden_layers = 4;
  return config;
}

TrainingEngineOptions stage_options(const Schedule& schedule, Recomputation what = Recomputation::kNothing) {
  TrainingEngineOptions options;
  options.seq_len = kStageLength;
  options.sequences = 2;
  options.schedule = schedule;
  options.recomputation = what;
  return options;
}

struct TrainedRun {
  std::vector<double> losses;
  std::vector<double> norms;
  std::vector<double> balance;
  std::vector<float> values;
};

// Two steps, so that the second begins from what the first has updated.
TrainedRun train_two_steps(const ModelConfig& config, const TrainingEngineOptions& options) {
  TrainingEngine engine(config, options);
  engine.allocate();
  engine.initialize(7);
  TrainedRun result;
  for (int64_t step = 1; step <= 2; ++step) {
    std::vector<PackedBatch> batches;
    int64_t targets = 0;
    for (int m = 0; m < kMicrobatches; ++m) {
      batches.push_back(random_batch(config, 2, kStageLength, static_cast<uint64_t>(10 * step + m)));
      targets += batches.back().target_count;
    }
    engine.begin_step(step, 0.01, targets, kMicrobatches);
    for (const PackedBatch& batch : batches) {
      engine.add_microbatch(batch);
      engine.evaluate(batch);  // leaves the microbatches alone that wait
    }
    const StepResult report = engine.finish_step();
    result.losses.push_back(report.loss + report.mtp_loss);
    result.norms.push_back(report.gradient_norm);
    for (const MoeLayerMetrics& layer : report.moe_layers) {
      result.balance.push_back(layer.aux_loss);
      result.balance.push_back(layer.load_max_over_mean);
    }
  }
  for (const Parameter& p : engine.model().parameters().all()) {
    if (!p.value.defined()) continue;
    result.values.insert(result.values.end(), p.value.host<float>(), p.value.host<float>() + p.value.numel());
  }
  return result;
}

// Every schedule over so many ranks whose stages each have a layer.
std::vector<Schedule> schedules_of(const ModelConfig& config, std::initializer_list<int> ranks) {
  std::vector<Schedule> schedules;
  for (const int r : ranks) {
    for (Schedule& schedule : testing::every_schedule(r, kMicrobatches)) {
      if (schedule.stages <= config.num_hidden_layers) schedules.push_back(std::move(schedule));
    }
  }
  return schedules;
}

TEST(StageRunner, StagesHaveTheBitsOfOneStage) {
  ModelConfig config = four_layers(tiny_v3());
  config.num_nextn_predict_layers = 0;
  const TrainedRun expected = train_two_steps(config, stage_options(one_f_one_b_schedule(1, 1)));
  std::vector<Schedule> schedules = schedules_of(config, {1, 2, 3});
  schedules.push_back(interleaved_schedule(1, 3, kMicrobatches));
  for (const Schedule& schedule : schedules) {
    SCOPED_TRACE(schedule.name + " on " + std::to_string(schedule.ranks));
    const TrainedRun found = train_two_steps(config, stage_options(schedule));
    EXPECT_EQ(found.losses, expected.losses);
    EXPECT_EQ(found.norms, expected.norms);
    EXPECT_EQ(found.balance, expected.balance);
    EXPECT_EQ(found.values, expected.values);
  }
}

// The CPU adds the experts' gradients up one microbatch after another in either case.
TEST(StageRunner, PairedWeightsHaveTheBitsOfOneMicrobatchAfterAnother) {
  for (ModelConfig config : {four_layers(tiny_v3()), four_layers(tiny_v2())}) {
    config.num_nextn_predict_layers = 0;  // a module, or a tied head, writes to a table between the two
    config.tie_word_embeddings = false;
    const TrainedRun expected = train_two_steps(config, stage_options(one_f_one_b_schedule(1, 1)));
    const TrainedRun found = train_two_steps(config, stage_options(paired_weights_schedule()));
    EXPECT_EQ(found.losses, expected.losses);
    EXPECT_EQ(found.norms, expected.norms);
    EXPECT_EQ(found.balance, expected.balance);
    EXPECT_EQ(found.values, expected.values);
  }
}

TEST(StageRunner, PairedWeightsAreRefusedWhereTheyCannotBe) {
  RunConfig config;
  config.training.pair_weight_gradients = true;
  config.training.local_batch_size = 1;
  config.training.global_batch_size = 4;
  EXPECT_EQ(mesh_of_run(config, 1).data_ranks(), 1);
  RunConfig odd = config;
  odd.training.global_batch_size = 3;
  expect_usage_error([&] { mesh_of_run(odd, 1); },
                     "training.pair_weight_gradients wants an even number of microbatches a step, found 3: change "
                     "training.global_batch_size or training.local_batch_size");
  RunConfig again = config;
  again.activation_checkpoint.mode = ActivationCheckpointMode::kCheap;
  expect_usage_error([&] { mesh_of_run(again, 1); },
                     "training.pair_weight_gradients keeps two microbatches in memory, of which nothing is computed "
                     "again: set activation_checkpoint.mode = \"none\"");
  config.parallelism.data_parallel_replicate_degree = 2;
  expect_usage_error([&] { mesh_of_run(config, 2); },
                     "training.pair_weight_gradients is for runs of one rank, found 2: set it to false");
}

TEST(StageRunner, RecomputedLayersHaveTheSameBits) {
  ModelConfig config = four_layers(tiny_v3());
  config.num_nextn_predict_layers = 0;
  const TrainedRun expected = train_two_steps(config, stage_options(one_f_one_b_schedule(1, 1)));
  for (const Schedule& schedule : {gpipe_schedule(2, kMicrobatches), one_f_one_b_schedule(3, kMicrobatches)}) {
    EXPECT_EQ(train_two_steps(config, stage_options(schedule, Recomputation::kLayers)).values, expected.values)
        << schedule.name;
  }
  expect_usage_error(
      [&] { train_two_steps(config, stage_options(zero_bubble_schedule(2, kMicrobatches), Recomputation::kLayers)); },
      "layers that are recomputed need a schedule that ends a layer's backward at once; use 1f1b, or "
      "recompute only what is cheap");
}

// One memory serves all layers and records, also where the weights' backward comes after other microbatches.
TEST(StageRunner, WhatIsCheapIsRecomputedWithTheSameBits) {
  ModelConfig config = four_layers(tiny_v3());
  config.num_nextn_predict_layers = 0;
  const TrainedRun expected = train_two_steps(config, stage_options(one_f_one_b_schedule(1, 1)));
  for (const Schedule& schedule : schedules_of(config, {2, 3})) {
    const TrainedRun found = train_two_steps(config, stage_options(schedule, Recomputation::kCheap));
    EXPECT_EQ(found.losses, expected.losses) << schedule.name;
    EXPECT_EQ(found.norms, expected.norms) << schedule.name;
    EXPECT_EQ(found.values, expected.values) << schedule.name;
    EXPECT_LT(TrainingEngine(config, stage_options(schedule, Recomputation::kCheap)).plan().total(),
              TrainingEngine(config, stage_options(schedule)).plan().total())
        << schedule.name;
  }
}

// However many microbatches are on their way, what is inside a layer is there once.
TEST(StageRunner, RecomputedLayersOfAllMicrobatchesShareMemory) {
  ModelConfig config = four_layers(tiny_v3());
  config.num_nextn_predict_layers = 0;
  const auto planned = [&](const std::string& name, const Schedule& schedule, Recomputation what) {
    const TrainingEngine engine(config, stage_options(schedule, what));
    int64_t bytes = 0;
    for (const PlannedArena& arena : engine.plan().arenas) bytes += arena.name == name ? arena.bytes : 0;
    return bytes;
  };
  const int64_t of_two = planned("recomputed activations", gpipe_schedule(2, 2), Recomputation::kLayers);
  EXPECT_GT(of_two, 0);
  EXPECT_EQ(planned("recomputed activations", gpipe_schedule(2, 6), Recomputation::kLayers), of_two);
  EXPECT_LT(planned("activations", gpipe_schedule(2, 6), Recomputation::kLayers),
            planned("activations", gpipe_schedule(2, 6), Recomputation::kNothing) / 3);
}

// Tensors with writers in two stages (the embedding of a tied head, of a next-token-prediction module) are added to in
// another order, and only these.
TEST(StageRunner, TensorsWithWritersInTwoStagesDifferByTheOrderOfSums) {
  for (const ModelConfig& config : {four_layers(tiny_v2()), four_layers(tiny_v3())}) {
    const TrainedRun expected = train_two_steps(config, stage_options(one_f_one_b_schedule(1, 1)));
    const TrainedRun found = train_two_steps(config, stage_options(one_f_one_b_schedule(2, kMicrobatches)));
    EXPECT_EQ(found.losses[0], expected.losses[0]);
    EXPECT_NEAR(found.norms[0], expected.norms[0], 1e-6 * expected.norms[0]);
    // AdamW divides by the root of the squares: a gradient near zero may move an element the other way.
    EXPECT_LT(relative_error(found.values, expected.values), 1e-3);
  }
}

TEST(StageRunner, ASplitThatDoesNotFitIsRefused) {
  expect_usage_error([] { TrainingEngine(tiny_v3(), stage_options(one_f_one_b_schedule(4, kMicrobatches))); },
                     "4 pipeline stages for 3 layers; use 1 to 3");
  TrainingEngine engine(tiny_v3(), stage_options(one_f_one_b_schedule(2, kMicrobatches)));
  engine.allocate();
  expect_runtime_error([&] { engine.begin_step(1, 0.01, 100, 3); }, "a step of 3 microbatches for a schedule of 6");
}

}  // namespace
}  // namespace deeptitan
