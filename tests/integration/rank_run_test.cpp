// Whole runs on several ranks, which are threads here: the files of one rank, and what another layout makes of them.

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "checkpoint/model_directory.h"
#include "checkpoint/run_checkpoints.h"
#include "comm/mesh.h"
#include "comm/thread_ranks.h"
#include "core/log.h"
#include "support/expect_error.h"
#include "support/sample_run.h"
#include "train/trainer.h"

namespace deeptitan {
namespace {

const testing::SampleRun& rank_sample() {
  static const testing::SampleRun run = [] {
    set_log_quiet(true);
    return testing::SampleRun();
  }();
  return run;
}

// A step of twelve sequences, one by one.
RunConfig rank_config(const std::string& run) {
  RunConfig config = rank_sample().config(run, "steps = 8\ndtype = \"fp32\"\n");
  config.training.local_batch_size = 1;
  config.training.global_batch_size = 12;
  return config;
}

TrainingOutcome train_on(const Mesh& mesh, RunConfig config, const TrainerOptions& options = {}) {
  config.parallelism.pipeline_parallel_degree = mesh.pp;
  config.parallelism.expert_parallel_degree = mesh.ep;
  config.parallelism.data_parallel_shard_degree = mesh.dp_shard;
  TrainingOutcome outcome;
  ::testing::internal::CaptureStdout();
  try {
    run_thread_ranks(mesh.world(), [&](Transport& transport) {
      TrainerOptions of_rank = options;
      of_rank.ranks = &transport;
      const TrainingOutcome ended = train(config, of_rank);
      if (transport.rank() == 0) outcome = ended;
    });
  } catch (...) {
    ::testing::internal::GetCapturedStdout();
    throw;
  }
  ::testing::internal::GetCapturedStdout();
  return outcome;
}

// By step: the loss, and with key "validation" that of the validation.
std::map<int64_t, double> logged(const std::string& run, const char* key) {
  std::map<int64_t, double> values;
  std::ifstream file(rank_sample().run(run) / "metrics.jsonl");
  for (std::string text; std::getline(file, text);) {
    const auto json = nlohmann::json::parse(text);
    if (json.contains(key)) values[json.at("step")] = json.at(key);
  }
  return values;
}

void expect_near_each_other(const std::map<int64_t, double>& found, const std::map<int64_t, double>& expected,
                            double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [step, value] : expected) EXPECT_NEAR(found.at(step), value, tolerance) << "step " << step;
}

// Choices of experts are not held here: one that rounding turns moves a loss of 5 by less than a thousandth.
constexpr double kTurnedChoices = 5e-3;

TEST(RankRun, EveryLayoutHasTheLossesAndFilesOfOneRank) {
  train_on({}, rank_config("one"));
  const auto losses = logged("one", "loss");
  const auto validation = logged("one", "validation_loss");
  ASSERT_EQ(losses.size(), 8U);
  ASSERT_FALSE(validation.empty());
  for (const Mesh& mesh :
       {Mesh{.ep = 2}, Mesh{.dp_shard = 3}, Mesh{.ep = 2, .dp_shard = 2}, Mesh{.pp = 2, .dp_shard = 2}}) {
    SCOPED_TRACE(mesh.describe());
    const std::string run = fmt::format("ranks-{}-{}-{}", mesh.pp, mesh.ep, mesh.dp_shard);
    RunConfig config = rank_config(run);
    config.parallelism.zero_stage = mesh.ep == 1 ? 2 : 1;
    const TrainingOutcome outcome = train_on(mesh, config);
    EXPECT_EQ(outcome.step, 8);
    EXPECT_NEAR(logged(run, "loss").at(1), losses.at(1), 1e-6);  // the same sequences, the same model
    expect_near_each_other(logged(run, "loss"), losses, kTurnedChoices);
    expect_near_each_other(logged(run, "validation_loss"), validation, kTurnedChoices);
    const ModelDirectory model(outcome.model_folder);
    EXPECT_EQ(model.names(), ModelDirectory(rank_sample().run("one") / "model").names());
    for (const CheckpointEntry& entry : list_checkpoints(rank_sample().run(run) / "checkpoints")) {
      verify_checkpoint(entry);
    }
  }
}

TEST(RankRun, ARunGoesOnOnAnyOtherLayout) {
  train_on({.ep = 2, .dp_shard = 2}, rank_config("saved"));
  for (const Mesh& mesh : {Mesh{}, Mesh{.ep = 2}, Mesh{.dp_shard = 3}}) {
    SCOPED_TRACE(mesh.describe());
    const std::string run = "goes-on-" + std::to_string(mesh.ep) + "-" + std::to_string(mesh.dp_shard);
    std::filesystem::copy(rank_sample().run("saved"), rank_sample().run(run), std::filesystem::copy_options::recursive);
    TrainerOptions options;
    options.resume = ResumeMode::kStep;
    options.resume_step = 4;
    RunConfig config = rank_config(run);
    config.training.local_batch_size = 2;  // and in other microbatches
    train_on(mesh, config, options);
    expect_near_each_other(logged(run, "loss"), logged("saved", "loss"), kTurnedChoices);
  }
}

TEST(RankRun, ALossThatIsNotFiniteIsSaidWithTheLastCheckpoint) {
  RunConfig config = rank_config("exploded");
  config.checkpoint.interval = 1;
  config.lr_scheduler.warmup_steps = 0;
  config.optimizer.lr = 1e30;
  config.training.max_norm = 0;
  config.validation.freq = 0;
  const std::string message = message_of([&] { train_on({.dp_shard = 2}, config); });
  EXPECT_NE(message.find(": not finite. First: "), std::string::npos) << message;
  const std::filesystem::path checkpoints = rank_sample().run("exploded") / "checkpoints";
  const CheckpointEntry last = latest_checkpoint(checkpoints).value();
  verify_checkpoint(last);
  EXPECT_NE(message.find("; the last checkpoint is " + last.path.string() + "; repeat the step with --replay-step " +
                         std::to_string(last.step + 1)),
            std::string::npos)
      << message;
}

TEST(RankRun, WhatTheFirstRankFindsEndsAll) {
  train_on({}, rank_config("taken"));
  expect_usage_error(
      [] { train_on({.dp_shard = 2}, rank_config("taken")); },
      rank_sample().run("taken").string() +
          " holds a run already; go on with it (--resume auto), replace it (--overwrite), or name another "
          "folder (--job.dump_folder)");
}

}  // namespace
}  // namespace deeptitan
