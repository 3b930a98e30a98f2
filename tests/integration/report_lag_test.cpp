// Whole runs that look at each step's result when the next has been queued, as they do on a GPU.

#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "integration/quiet_runs.h"

namespace deeptitan {
namespace {

// metrics.jsonl but for what the clock says.
std::vector<std::string> metrics_without_times(const std::string& run) {
  std::vector<std::string> lines;
  std::ifstream file(sample().run(run) / "metrics.jsonl");
  for (std::string text; std::getline(file, text);) {
    auto json = nlohmann::json::parse(text);
    for (const char* time : {"step_seconds", "tokens_per_second"}) json.erase(time);
    lines.push_back(json.dump());
  }
  return lines;
}

TEST(ReportLag, AResultThatIsReadOneStepLateChangesNothing) {
  const auto settings = [](const std::string& run, int steps) {
    RunConfig config = sample().config(run, "steps = " + std::to_string(steps) + "\ndtype = \"fp32\"\n");
    config.lr_scheduler.decay_type = DecayType::kConstant;
    config.validation.freq = 7;  // of both runs' last steps too
    config.checkpoint.interval = 4;
    config.checkpoint.keep_latest_k = 9;
    return config;
  };
  TrainerOptions at_once, late;
  at_once.report_lag = 0;
  late.report_lag = 1;
  train_quietly(settings("at-once", 11), at_once);
  train_quietly(settings("late", 7), late);
  late.resume = ResumeMode::kAuto;
  train_quietly(settings("late", 11), late);
  EXPECT_EQ(metrics_without_times("at-once").size(), 11u);
  EXPECT_EQ(metrics_without_times("late"), metrics_without_times("at-once"));
  for (const char* step : {"step-00000004", "step-00000008", "step-00000011"}) {
    for (const char* name : {"model.safetensors", "training_state/state.json"}) {
      const std::filesystem::path file = std::filesystem::path("checkpoints") / step / name;
      std::string found = read_file(sample().run("late") / file), expected = read_file(sample().run("at-once") / file);
      if (std::string_view(name) == "training_state/state.json") {
        // Where the run lies and how long its metrics are is said too.
        for (std::string* state : {&found, &expected}) {
          auto json = nlohmann::json::parse(*state);
          for (const char* own : {"config", "metrics_bytes", "metrics_digest"}) json.erase(own);
          *state = json.dump();
        }
      }
      EXPECT_TRUE(found == expected) << file;
    }
  }
}

TEST(ReportLag, AStepThatIsNotFiniteStopsARunOneStepLateWithTheSameWords) {
  TrainerOptions late;
  late.report_lag = 1;
  std::string at_once = error_of(exploding("stops-at-once"));
  const std::string stopped = error_of(exploding("stops-late"), late);
  EXPECT_NE(at_once.find("not finite. First: "), std::string::npos) << at_once;
  const size_t folder = at_once.find("stops-at-once");
  if (folder != std::string::npos) at_once.replace(folder, 13, "stops-late");
  EXPECT_EQ(stopped, at_once);
}

}  // namespace
}  // namespace deeptitan
