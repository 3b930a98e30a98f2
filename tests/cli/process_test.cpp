// What a shell can do to a program: closed descriptors, pipes that end, signals, folders that go away.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "checkpoint/run_checkpoints.h"
#include "cli/program.h"
#include "core/file.h"
#include "support/sample_run.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using testing::Outcome;
using testing::Program;
using testing::ProgramOptions;
using testing::run_program;
using testing::sample;

class ProcessTest : public ::testing::Test {
 protected:
  static std::string run_file(const std::string& name, int steps) {
    const fs::path path = sample().run(name + ".toml");
    std::ofstream(path) << sample().toml(name, "steps = " + std::to_string(steps) + "\ndtype = \"fp32\"\n");
    return path.string();
  }
  // A model to run, trained for four steps.
  static std::string model() {
    static const std::string folder = [] {
      run_program({"train", run_file("model-run", 4)});
      return (sample().run("model-run") / "model").string();
    }();
    return folder;
  }
};

TEST_F(ProcessTest, ClosedDescriptorsAreNotTakenByFiles) {
  for (const std::vector<int>& closed : {std::vector<int>{1}, {2}, {0, 1, 2}}) {
    const std::string name = "closed-" + std::to_string(closed.size()) + std::to_string(closed.back());
    ProgramOptions options;
    options.closed = closed;
    const Outcome outcome = run_program({"train", run_file(name, 6)}, options);
    EXPECT_EQ(outcome.exit_code, closed == std::vector<int>{2} ? 0 : 1) << outcome.err;
    EXPECT_TRUE(fs::exists(sample().run(name) / "model/model.safetensors"));
    std::ifstream metrics(sample().run(name) / "metrics.jsonl");
    int64_t lines = 0;
    for (std::string line; std::getline(metrics, line); ++lines) {
      EXPECT_EQ(nlohmann::json::parse(line)["step"], lines + 1);
    }
    EXPECT_EQ(lines, 6);
  }
}

TEST_F(ProcessTest, TrainingGoesOnWhereNobodyReadsItsLines) {
  Program program({"train", run_file("piped", 60), "--validation.freq", "0"});
  ASSERT_TRUE(program.wait_for_output("step 2/"));
  program.close_output();
  const Outcome outcome = program.finish();
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.err.find("warning: standard output cannot be written any more; the run goes on"), std::string::npos)
      << outcome.err;
  EXPECT_TRUE(outcome.err.ends_with("deeptitan: cannot write to standard output: Broken pipe\n")) << outcome.err;
  EXPECT_TRUE(fs::exists(sample().run("piped") / "model/model.safetensors"));
  EXPECT_EQ(latest_checkpoint(sample().run("piped") / "checkpoints")->step, 60);
}

TEST_F(ProcessTest, AResultThatNobodyReadsIsExitCode1) {
  const std::vector<std::vector<std::string>> commands = {
      {"inspect", model()},
      {"generate", "--model", model(), "--prompt", "And", "--max-new-tokens", "8"},
      {"eval", "--model", model(), "--text", sample().path() / "text.txt", "--context", "32"},
      {"plan", run_file("planned", 1)}};
  for (const std::vector<std::string>& command : commands) {
    Program program(command);
    program.close_output();
    const Outcome outcome = program.finish();
    EXPECT_EQ(outcome.exit_code, 1) << command[0] << outcome.err;
    EXPECT_NE(outcome.err.find("deeptitan: "), std::string::npos) << command[0];
    EXPECT_TRUE(outcome.err.ends_with("Broken pipe\n")) << command[0] << outcome.err;
  }
}

TEST_F(ProcessTest, AnErrorThatCannotBeToldKeepsItsExitCode) {
  ProgramOptions full, closed;
  full.error_file = "/dev/full";
  closed.closed = {2};
  for (const ProgramOptions& options : {full, closed}) {
    EXPECT_EQ(run_program({"train", "/no/such.toml"}, options).exit_code, 2);
    EXPECT_EQ(run_program({"--nonsense"}, options).exit_code, 2);
    EXPECT_EQ(run_program({"inspect", sample().path().string()}, options).exit_code, 2);
  }
}

TEST_F(ProcessTest, TheTerminalsEndSavesTheRun) {
  Program program({"train", run_file("hangup", 100000), "--validation.freq", "0"});
  ASSERT_TRUE(program.wait_for_output("step 2/"));
  program.send_signal(SIGHUP);
  const Outcome outcome = program.finish();
  EXPECT_EQ(outcome.exit_code, 130) << outcome.err;
  EXPECT_NE(outcome.out.find(" is saved; go on with --resume auto\n"), std::string::npos) << outcome.out;
}

TEST_F(ProcessTest, ASecondCtrlCEndsAtOnce) {
  // A step of many seconds.
  Program program({"train", run_file("impatient", 4), "--training.global_batch_size", "40000"});
  ASSERT_TRUE(program.wait_for_output("planned"));
  program.send_signal(SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  program.send_signal(SIGINT);
  const Outcome outcome = program.finish();
  EXPECT_EQ(outcome.exit_code, 130);
  EXPECT_NE(outcome.err.find("finishing the step, then saving; Ctrl-C again ends at once\n"), std::string::npos);
  EXPECT_TRUE(outcome.err.ends_with("ended at once; what was saved before is whole\n")) << outcome.err;
}

TEST_F(ProcessTest, ATokenCacheThatIsCutUnderARunIsNamed) {
  const std::string cache_folder = sample().run("cut-cache").string();
  Program program({"train", run_file("cut", 100000), "--validation.freq", "0", "--data.cache_folder", cache_folder});
  ASSERT_TRUE(program.wait_for_output("step 2/"));
  fs::path cache;
  for (const auto& entry : fs::directory_iterator(cache_folder)) {
    if (entry.path().extension() == ".tokens") cache = entry.path();
  }
  fs::resize_file(cache, 0);
  const Outcome outcome = program.finish();
  EXPECT_EQ(outcome.exit_code, 1) << outcome.err;
  EXPECT_NE(outcome.err.find("deeptitan: " + cache.string() + " was cut short"), std::string::npos) << outcome.err;
  // What is damaged is made anew, and the run goes on.
  const Outcome again = run_program(
      {"train", run_file("cut", 6), "--validation.freq", "0", "--data.cache_folder", cache_folder, "--overwrite"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.err.find("is damaged, the text is tokenised anew"), std::string::npos) << again.err;
}

TEST_F(ProcessTest, AFolderThatIsTakenAwayIsNoticedAndTheStepIsSaved) {
  const std::string file = run_file("moved", 100000);
  Program program({"train", file, "--validation.freq", "0", "--checkpoint.interval", "0"});
  ASSERT_TRUE(program.wait_for_output("step 2/"));
  fs::rename(sample().run("moved"), sample().run("moved-away"));
  const Outcome outcome = program.finish();
  EXPECT_EQ(outcome.exit_code, 1) << outcome.err;
  EXPECT_NE(outcome.err.find("was removed or replaced while the run wrote into it. Step "), std::string::npos)
      << outcome.err;
  const auto saved = latest_checkpoint(sample().run("moved") / "checkpoints");
  ASSERT_TRUE(saved.has_value());
  EXPECT_GE(saved->step, 2);
  const std::string steps = std::to_string(saved->step + 1);
  EXPECT_EQ(
      run_program({"train", file, "--validation.freq", "0", "--resume", "auto", "--training.steps", steps}).exit_code,
      0);
}

TEST_F(ProcessTest, CheckpointsThatAreTakenAwayAreNoticedAndTheStepIsSaved) {
  const std::string file = run_file("cleared", 100000);
  Program program({"train", file, "--validation.freq", "0", "--checkpoint.interval", "2"});
  ASSERT_TRUE(program.wait_for_output("step 5/"));
  fs::rename(sample().run("cleared") / "checkpoints", sample().run("cleared") / "elsewhere");
  const Outcome outcome = program.finish();
  EXPECT_EQ(outcome.exit_code, 1) << outcome.err;
  EXPECT_NE(outcome.err.find("was removed or replaced while the run wrote into it. Step "), std::string::npos)
      << outcome.err;
  const auto saved = latest_checkpoint(sample().run("cleared") / "checkpoints");
  ASSERT_TRUE(saved.has_value());
  EXPECT_GE(saved->step, 5);
  const Outcome again = run_program({"train", file, "--validation.freq", "0", "--resume", "auto", "--training.steps",
                                     std::to_string(saved->step + 1)});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(again.err.find("is lost"), std::string::npos) << again.err;
  const std::string metrics = read_file(sample().run("cleared") / "metrics.jsonl");
  EXPECT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), saved->step + 1);
}

TEST_F(ProcessTest, AVocabularyThatCannotBeWrittenLeavesNothingInTheWay) {
  const std::string folder = sample().run("vocabulary").string();
  const std::vector<std::string> command = {"tokenizer",    "train", "--text", sample().path() / "text.txt",
                                            "--vocab-size", "300",   "--out",  folder};
  ProgramOptions options;
  options.largest_file_bytes = 1000;
  const Outcome full = run_program(command, options);
  EXPECT_EQ(full.exit_code, 1) << full.err;
  EXPECT_NE(full.err.find("cannot write " + folder + "/tokenizer.json: File too large"), std::string::npos) << full.err;
  EXPECT_TRUE(fs::is_empty(folder));
  EXPECT_EQ(run_program(command).exit_code, 0);
}

}  // namespace
}  // namespace deeptitan
