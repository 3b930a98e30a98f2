// Training and generation over several GPUs as a user runs them.

#include <csignal>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "cli/rank_runs.h"
#include "core/clock.h"
#include "core/device_choice.h"
#include "core/error.h"
#include "support/sample_run.h"

namespace deeptitan {
namespace {

using testing::count;
using testing::expect_close;
using testing::expect_none_left;
using testing::losses;
using testing::Outcome;
using testing::process_of_rank;
using testing::Program;
using testing::run_file;
using testing::run_program;
using testing::sample;

using Words = std::vector<std::string>;

class GpuRuns : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      choose_device("cuda", {.rank = 1, .ranks = 2});
    } catch (const Error& error) {
      GTEST_SKIP() << "needs two GPUs: " << error.what();
    }
  }

  static Words train(const std::string& name, const Words& more) {
    Words words = {"train", run_file(name)};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  // What hangs is to say so.
  static void run(const std::string& name, Words more) {
    more.insert(more.end(), {"--parallelism.deadline_seconds", "20"});
    const Outcome outcome = run_program(train(name, more));
    ASSERT_EQ(outcome.exit_code, 0) << name << ": " << outcome.err;
  }
};

const Words kTwoGpus = {"--ranks", "2", "--device", "cuda"};

Words with(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST_F(GpuRuns, TwoTrainAsOne) {
  run("gpu-alone", {"--device", "cuda"});
  run("gpu-two", kTwoGpus);
  run("gpu-two-again", kTwoGpus);
  run("gpu-parts", with(kTwoGpus, {"--parallelism.zero_stage", "2"}));
  run("gpu-copies", with(kTwoGpus, {"--parallelism.data_parallel_replicate_degree", "2"}));
  run("gpu-stages", with(kTwoGpus, {"--parallelism.pipeline_parallel_degree", "2"}));
  run("gpu-experts", with(kTwoGpus, {"--parallelism.expert_parallel_degree", "2"}));
  for (const char* name : {"gpu-two", "gpu-parts", "gpu-copies", "gpu-stages", "gpu-experts"}) {
    SCOPED_TRACE(name);
    expect_close(losses(name), losses("gpu-alone"));
  }
  EXPECT_EQ(losses("gpu-two-again"), losses("gpu-two"));
}

// Half a run on one layout and device, the other half on another.
TEST_F(GpuRuns, ARunGoesOnAcrossLayoutsAndDevices) {
  run("gpu-unbroken", {"--device", "cuda"});
  struct Half {
    const char* name;
    Words first, second;
  };
  for (const auto& [name, first, second] :
       {Half{"gpu-to-cpu", kTwoGpus, {"--device", "cpu"}}, Half{"cpu-to-gpu", {"--device", "cpu"}, kTwoGpus},
        Half{"gpu-to-stages", kTwoGpus, with(kTwoGpus, {"--parallelism.pipeline_parallel_degree", "2"})},
        Half{"stages-to-one-gpu",
             with(kTwoGpus, {"--parallelism.pipeline_parallel_degree", "2"}),
             {"--device", "cuda"}}}) {
    SCOPED_TRACE(name);
    run(name, with(first, {"--training.steps", "8", "--checkpoint.interval", "4"}));
    run(name, with(second, {"--resume", "4", "--training.steps", "8"}));
    expect_close(losses(name), losses("gpu-unbroken"));
  }
}

TEST_F(GpuRuns, ARankThatDiesEndsTheRun) {
  const std::string file = run_file("gpu-dies");
  Program program(with({"train", file, "--training.steps", "100000", "--validation.freq", "0"}, kTwoGpus));
  ASSERT_TRUE(program.wait_for_output("step 9/"));
  const double start = monotonic_seconds();
  ::kill(process_of_rank(file, 1), SIGKILL);
  EXPECT_NE(program.finish().exit_code, 0);
  expect_none_left(file, start);
}

// The deadline holds for the connection of the GPUs too, which takes seconds.
TEST_F(GpuRuns, ARankThatStopsIsNamedByTheOther) {
  const std::string file = run_file("gpu-stops");
  Program program(with(
      {"train", file, "--training.steps", "100000", "--validation.freq", "0", "--parallelism.deadline_seconds", "15"},
      kTwoGpus));
  ASSERT_TRUE(program.wait_for_output("step 9/"));
  ::kill(process_of_rank(file, 1), SIGSTOP);
  const Outcome outcome = program.finish();
  EXPECT_NE(outcome.exit_code, 0);
  EXPECT_NE(outcome.err.find("deeptitan: rank 0 has waited 15"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(", for rank 1: it has stopped, hangs, or "), std::string::npos) << outcome.err;
  expect_none_left(file, monotonic_seconds());
}

TEST_F(GpuRuns, MoreRanksThanGpusAreRefused) {
  const Outcome outcome = run_program(train("gpu-many", {"--ranks", "96", "--device", "cuda"}));
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.err.find(" GPUs for 96 ranks, each of which needs one"), std::string::npos) << outcome.err;
  const Outcome one = run_program(train("gpu-one", {"--ranks", "2", "--device", "cuda:1"}));
  EXPECT_EQ(one.exit_code, 2);
  EXPECT_NE(one.err.find("device = cuda:1 is one GPU, and 2 ranks of this host need one each"), std::string::npos)
      << one.err;
}

// What was generated, without the seconds that it took.
std::vector<nlohmann::json> answers(const std::string& lines) {
  std::vector<nlohmann::json> result;
  std::istringstream text(lines);
  for (std::string line; std::getline(text, line);) {
    nlohmann::json answer = nlohmann::json::parse(line);
    for (const char* seconds : {"prefill_seconds", "decode_seconds"}) answer.erase(seconds);
    result.push_back(std::move(answer));
  }
  return result;
}

TEST_F(GpuRuns, GenerationHasTheTextsOfOneGpu) {
  run("gpu-model", {"--device", "cuda"});
  const Words ask = {"generate",  "--model", (sample().run("gpu-model") / "model").string(),
                     "--prompt",  "a",       "--device",
                     "cuda",      "--dtype", "fp32",
                     "--samples", "3",       "--seed",
                     "4",         "--json",  "--max-new-tokens",
                     "12"};
  const Outcome one = run_program(ask);
  ASSERT_EQ(one.exit_code, 0) << one.err;
  for (const Words& layout : {Words{"--ranks", "2"}, Words{"--ranks", "2", "--pipeline-parallel", "2"}}) {
    const Outcome two = run_program(with(ask, layout));
    ASSERT_EQ(two.exit_code, 0) << two.err;
    EXPECT_EQ(answers(two.out), answers(one.out)) << layout.back();
  }
}

}  // namespace
}  // namespace deeptitan
