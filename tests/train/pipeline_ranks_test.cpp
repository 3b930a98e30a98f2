// Pipelines whose ranks are threads, each with an engine that holds its own stages: the bits of one process, but for a
// table that two stages hold.

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "parallel/every_schedule.h"
#include "support/compare.h"
#include "support/rank_layout.h"
#include "support/tiny_model.h"
#include "train/pipeline_run.h"

namespace deeptitan {
namespace {

using testing::kPipelineMicrobatches;
using testing::pipeline_options;
using testing::PipelineRun;
using testing::relative_error;
using testing::run_on_mesh;
using testing::run_steps;
using testing::tiny_v2;
using testing::tiny_v3;
using testing::with_layers;

std::vector<PipelineRun> run_mesh(const Mesh& mesh, const ModelConfig& config, const TrainingEngineOptions& options) {
  std::vector<PipelineRun> runs(mesh.world());
  run_on_mesh(mesh, [&](const RankGroups& groups) {
    TrainingEngineOptions of_rank = options;
    of_rank.groups = groups;
    runs[rank_in(groups.world)] = run_steps(config, of_rank);
  });
  return runs;
}

std::vector<PipelineRun> run_ranks(const ModelConfig& config, const TrainingEngineOptions& options) {
  return run_mesh({.pp = options.schedule.ranks}, config, options);
}

TEST(PipelineRanks, HaveTheBitsOfOneProcess) {
  const ModelConfig config = with_layers(tiny_v3(), 7, 0);  // not evenly divided
  const PipelineRun expected = run_steps(config, pipeline_options(one_f_one_b_schedule(1, 1)));
  for (const int ranks : {2, 3, 4}) {
    for (const Schedule& schedule : testing::every_schedule(ranks, kPipelineMicrobatches)) {
      if (schedule.stages > config.num_hidden_layers) continue;
      SCOPED_TRACE(schedule.name + " on " + std::to_string(ranks));
      std::map<std::string, std::vector<float>> values;
      int64_t most_planned = 0;
      for (const PipelineRun& found : run_ranks(config, pipeline_options(schedule))) {
        EXPECT_EQ(found.reports, expected.reports);
        EXPECT_EQ(found.evaluations, expected.evaluations);
        EXPECT_EQ(found.logits, expected.logits);
        most_planned = std::max(most_planned, found.planned_parameters);
        for (const auto& [name, of_parameter] : found.values) {
          EXPECT_TRUE(values.emplace(name, of_parameter).second) << name << " lies on two ranks";
        }
      }
      EXPECT_TRUE(values == expected.values);
      EXPECT_LT(most_planned, expected.planned_parameters * 3 / 4) << "a rank has memory for its own stages alone";
    }
  }
}

// The first stage and the last both add to the embedding's gradient: the sum has another order.
void expect_a_shared_table(const ModelConfig& config) {
  const std::string table = "model.embed_tokens.weight from 0";
  const PipelineRun expected = run_steps(config, pipeline_options(one_f_one_b_schedule(1, 1)));
  for (const int ranks : {2, 3}) {
    const std::vector<PipelineRun> found = run_ranks(config, pipeline_options(one_f_one_b_schedule(ranks, 6)));
    EXPECT_EQ(found.front().values.at(table), found.back().values.at(table)) << "both copies stay the same";
    EXPECT_EQ(found.front().reports, found.back().reports);
    for (size_t i = 0; i < expected.reports.size(); ++i) {
      EXPECT_NEAR(found.front().reports[i], expected.reports[i], 1e-5 * std::abs(expected.reports[i])) << i;
    }
    for (size_t rank = 0; rank < found.size(); ++rank) {
      EXPECT_EQ(found[rank].values.contains(table), rank == 0 || rank + 1 == found.size()) << rank;
      for (const auto& [name, values] : found[rank].values) {
        EXPECT_LT(relative_error(values, testing::to_double(expected.values.at(name))), 1e-4) << name;
      }
    }
  }
}

TEST(PipelineRanks, ATiedTableIsAddedUpOverTwoStages) {
  expect_a_shared_table(with_layers(tiny_v2(), 4, 0));
}

TEST(PipelineRanks, NextTokenPredictionReadsTheTableOnTheLastStage) {
  expect_a_shared_table(with_layers(tiny_v3(), 4, 1));
}

// A rank that has both ends has the table once, and all has the bits of one process that runs the same schedule.
TEST(PipelineRanks, BothEndsOfAModelMayLieOnOneRank) {
  const Schedule schedule = testing::v_shaped_schedule(2, kPipelineMicrobatches);
  for (const ModelConfig& config : {with_layers(tiny_v2(), 4, 0), with_layers(tiny_v3(), 4, 1)}) {
    const PipelineRun expected = run_steps(config, pipeline_options(schedule));
    std::map<std::string, std::vector<float>> values;
    for (const PipelineRun& found : run_ranks(config, pipeline_options(schedule))) {
      EXPECT_EQ(found.reports, expected.reports);
      EXPECT_EQ(found.evaluations, expected.evaluations);
      EXPECT_EQ(found.logits, expected.logits);
      values.insert(found.values.begin(), found.values.end());
    }
    EXPECT_TRUE(values == expected.values);
  }
}

// Beside data and expert parallelism a pipeline changes no bits of values either. A rank's part of the optimizer's
// state begins elsewhere, so the norm's blocks are cut at other places.
TEST(PipelineRanks, MixedLayoutsHaveTheBitsOfOneStage) {
  const ModelConfig config = with_layers(tiny_v3(), 4, 0);
  for (const Mesh& flat : {Mesh{.ep = 2}, Mesh{.dp_shard = 2}, Mesh{.dp_replicate = 2}}) {
    SCOPED_TRACE(flat.describe());
    TrainingEngineOptions options = pipeline_options(one_f_one_b_schedule(1, 1));
    options.max_norm = 0;
    const std::vector<PipelineRun> expected = run_mesh(flat, config, options);
    std::map<std::string, std::vector<float>> expected_values, values;
    for (const PipelineRun& run : expected) expected_values.insert(run.values.begin(), run.values.end());
    Mesh piped = flat;
    piped.pp = 2;
    options.schedule = one_f_one_b_schedule(2, kPipelineMicrobatches);
    for (const PipelineRun& found : run_mesh(piped, config, options)) {
      EXPECT_LT(relative_error(found.reports, expected.front().reports), 1e-9);
      EXPECT_EQ(found.evaluations, expected.front().evaluations);
      values.insert(found.values.begin(), found.values.end());
    }
    EXPECT_TRUE(values == expected_values);
  }
}

// What a stage's ranks add up after each microbatch has, whatever the schedule, the bits of one stage that does; in
// buckets so small that many share their memory.
TEST(PipelineRanks, GradientsInPartsHaveTheBitsOfOneStage) {
  const ModelConfig config = with_layers(tiny_v3(), 5, 0);
  for (const Mesh& flat : {Mesh{.dp_shard = 2}, Mesh{.ep = 2}, Mesh{.dp_shard = 2, .dp_replicate = 2}}) {
    TrainingEngineOptions options = pipeline_options(one_f_one_b_schedule(1, 1));
    options.max_norm = 0;
    options.zero_stage = 2;
    options.bucket_elements = 600;
    const std::vector<PipelineRun> expected = run_mesh(flat, config, options);
    std::map<std::string, std::vector<float>> expected_values;
    for (const PipelineRun& run : expected) expected_values.insert(run.values.begin(), run.values.end());
    Mesh piped = flat;
    piped.pp = 2;
    for (const Schedule& schedule : testing::every_schedule(2, kPipelineMicrobatches)) {
      SCOPED_TRACE(piped.describe() + ", " + schedule.name);
      options.schedule = schedule;
      std::map<std::string, std::vector<float>> values;
      for (const PipelineRun& found : run_mesh(piped, config, options)) {
        EXPECT_LT(relative_error(found.reports, expected.front().reports), 1e-9);
        EXPECT_EQ(found.evaluations, expected.front().evaluations);
        values.insert(found.values.begin(), found.values.end());
      }
      EXPECT_TRUE(values == expected_values);
    }
  }
}

// The table stays whole on both stages; its sum has another order.
TEST(PipelineRanks, GradientsInPartsAddUpASharedTable) {
  for (const ModelConfig& config : {with_layers(tiny_v2(), 4, 0), with_layers(tiny_v3(), 4, 1)}) {
    TrainingEngineOptions options = pipeline_options(one_f_one_b_schedule(1, 1));
    options.zero_stage = 2;
    options.bucket_elements = 600;
    const PipelineRun expected = run_mesh({.dp_shard = 2}, config, options).front();
    for (const Schedule& schedule : testing::every_schedule(2, kPipelineMicrobatches)) {
      SCOPED_TRACE(schedule.name);
      options.schedule = schedule;
      for (const PipelineRun& found : run_mesh({.pp = 2, .dp_shard = 2}, config, options)) {
        for (size_t i = 0; i < expected.reports.size(); ++i) {
          EXPECT_NEAR(found.reports[i], expected.reports[i], 1e-5 * std::abs(expected.reports[i])) << i;
        }
        for (const auto& [name, values] : found.values) {
          EXPECT_LT(relative_error(values, testing::to_double(expected.values.at(name))), 1e-4) << name;
        }
      }
    }
  }
}

TEST(PipelineRanks, GradientsInPartsTakeLessMemory) {
  const ModelConfig config = with_layers(tiny_v3(), 20, 0);
  const auto most_of_gradients = [&](int zero_stage) {
    std::vector<int64_t> bytes(4);
    run_on_mesh({.pp = 2, .dp_shard = 2}, [&](const RankGroups& groups) {
      TrainingEngineOptions options = pipeline_options(one_f_one_b_schedule(2, kPipelineMicrobatches));
      options.zero_stage = zero_stage;
      options.bucket_elements = 600;
      options.groups = groups;
      const TrainingEngine engine(config, options);
      for (const PlannedArena& arena : engine.plan().arenas) {
        if (arena.name == "gradients") bytes[rank_in(groups.world)] = arena.bytes;
      }
    });
    return *std::max_element(bytes.begin(), bytes.end());
  };
  EXPECT_LT(most_of_gradients(2), most_of_gradients(1) * 3 / 4);
}

TEST(PipelineRanks, WhatIsFrozenIsOfTheWholeModel) {
  const ModelConfig config = with_layers(tiny_v3(), 4, 0);
  TrainingEngineOptions options = pipeline_options(one_f_one_b_schedule(1, 1));
  options.freeze = {"lm_head.weight", "model.layers.0.*"};
  const PipelineRun expected = run_steps(config, options);
  options.schedule = one_f_one_b_schedule(2, kPipelineMicrobatches);
  for (const PipelineRun& found : run_ranks(config, options)) EXPECT_EQ(found.reports, expected.reports);
}

}  // namespace
}  // namespace deeptitan
