// Training as a user runs it: what ends it, what it leaves, and how it goes on.

#include <csignal>
#include <fstream>
#include <map>

#include <gtest/gtest.h>

#include "checkpoint/run_checkpoints.h"
#include "cli/program.h"
#include "cli/terminal_program.h"
#include "core/file.h"
#include "support/sample_run.h"

namespace deeptitan {
namespace {

using testing::Outcome;
using testing::Program;
using testing::ProgramOptions;
using testing::run_program;
using testing::sample;

// A run file for the folder `name`.
std::string run_file(const std::string& name, const std::string& training = "") {
  const std::filesystem::path path = sample().run(name + ".toml");
  std::ofstream(path) << sample().toml(name, training);
  return path.string();
}

std::filesystem::path checkpoints(const std::string& name) {
  return sample().run(name) / "checkpoints";
}

TEST(TrainCommand, PipedOutputIsPlainLinesWithTheModelLast) {
  const Outcome outcome = run_program({"train", run_file("plain"), "--training.steps", "6"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out.find_first_of("\033\r"), std::string::npos) << outcome.out;
  EXPECT_EQ(outcome.err.find_first_of("\033\r"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.out.find("\nstep 1/6  loss "), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("bits/byte)"), std::string::npos) << outcome.out;
  EXPECT_TRUE(outcome.out.ends_with("\nmodel: " + (sample().run("plain") / "model").string() + "\n")) << outcome.out;
}

TEST(TrainCommand, ASignalFinishesTheStepSavesAndTheRunGoesOn) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const std::string name = "signal-" + std::to_string(signal);
    const std::string file = run_file(name, "steps = 100000\ndtype = \"fp32\"\n");
    Program program({"train", file, "--validation.freq", "0"});
    ASSERT_TRUE(program.wait_for_output("step 2/"));
    program.send_signal(signal);
    const Outcome outcome = program.finish();
    EXPECT_EQ(outcome.exit_code, 130) << outcome.err;
    const int64_t step = latest_checkpoint(checkpoints(name)).value().step;
    const std::string saved = "interrupted: step " + std::to_string(step) + " is saved; go on with --resume auto\n";
    EXPECT_TRUE(outcome.out.ends_with(saved)) << outcome.out;

    const std::string steps = std::to_string(step + 2);
    const Outcome resumed =
        run_program({"train", file, "--validation.freq", "0", "--resume", "auto", "--training.steps", steps});
    EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
    EXPECT_NE(resumed.out.find("resumed at step " + std::to_string(step)), std::string::npos) << resumed.out;
    EXPECT_NE(resumed.err.find("resuming with training.steps = " + steps + " (it was 100000)"), std::string::npos)
        << resumed.err;
  }
}

TEST(TrainCommand, ASecondRunInAFolderIsRefusedAndNamesTheFirst) {
  const std::string file = run_file("shared", "steps = 100000\ndtype = \"fp32\"\n");
  Program first({"train", file, "--validation.freq", "0"});
  ASSERT_TRUE(first.wait_for_output("step 2/"));
  for (const std::vector<std::string>& how :
       {std::vector<std::string>{}, {"--resume", "auto"}, {"--overwrite"}, {"--resume", "latest"}}) {
    std::vector<std::string> arguments = {"train", file};
    arguments.insert(arguments.end(), how.begin(), how.end());
    const Outcome second = run_program(arguments);
    EXPECT_EQ(second.exit_code, 1);
    EXPECT_TRUE(second.err.starts_with("deeptitan: " + sample().run("shared").string() + " is in use by process " +
                                       std::to_string(first.pid()) + " on "))
        << second.err;
  }
  first.send_signal(SIGKILL);
  first.finish();
  // A killed run holds nothing.
  EXPECT_EQ(run_program({"train", file, "--overwrite", "--training.steps", "1"}).exit_code, 0);
  EXPECT_FALSE(std::filesystem::exists(sample().run("shared") / "run.lock"));
}

TEST(TrainCommand, ADifferentConfigurationIsNotResumed) {
  const std::string file = run_file("different");
  ASSERT_EQ(run_program({"train", file, "--training.steps", "2"}).exit_code, 0);
  const Outcome seed = run_program({"train", file, "--resume", "latest", "--training.seed", "6"});
  EXPECT_EQ(seed.exit_code, 2);
  EXPECT_EQ(
      seed.err,
      "deeptitan: cannot resume: training.seed is 5 in the checkpoint and 6 now. Only the keys that docs/config.md "
      "marks with * may change; use the saved values, or start a new run in another job.dump_folder\n");
  const std::string folder = sample().run("different").string();
  const Outcome again = run_program({"train", file});
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_EQ(again.err, "deeptitan: " + folder +
                           " holds a run already; go on with it (--resume auto), replace it (--overwrite), or name "
                           "another folder (--job.dump_folder)\n");
  const Outcome step = run_program({"train", file, "--resume", "77"});
  EXPECT_EQ(step.exit_code, 2);
  EXPECT_EQ(step.err, "deeptitan: " + folder + "/checkpoints has no checkpoint of step 77\n");
  EXPECT_EQ(run_program({"train", file, "--resume", "autp"}).err,
            "deeptitan: --resume autp: expected auto, latest or a step\n");
}

TEST(TrainCommand, AFullDiskKeepsTheLastCheckpointWhole) {
  const std::string file = run_file("full");
  ASSERT_EQ(run_program({"train", file, "--training.steps", "4"}).exit_code, 0);
  const auto before = latest_checkpoint(checkpoints("full")).value();
  const auto contents = [](const std::filesystem::path& folder) {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      if (entry.is_regular_file()) files[entry.path().string()] = read_file(entry.path());
    }
    return files;
  };
  const std::map<std::string, std::string> saved = contents(before.path);
  // No file may become as large as the largest of the checkpoint.
  size_t largest = 0;
  for (const auto& [name, bytes] : saved) largest = std::max(largest, bytes.size());
  const auto limit = static_cast<int64_t>(largest - 100);
  const Outcome outcome = run_program({"train", file, "--resume", "auto", "--training.steps", "8"},
                                      ProgramOptions{.input = "", .largest_file_bytes = limit});
  EXPECT_EQ(outcome.exit_code, 1);
  const std::string last_line = outcome.err.substr(outcome.err.rfind('\n', outcome.err.size() - 2) + 1);
  EXPECT_TRUE(last_line.starts_with("deeptitan: cannot write ")) << outcome.err;
  EXPECT_NE(last_line.find("File too large"), std::string::npos) << last_line;
  EXPECT_NE(last_line.find("(ulimit -f)"), std::string::npos) << last_line;
  const auto after = list_checkpoints(checkpoints("full"));
  ASSERT_FALSE(after.empty());
  EXPECT_EQ(after.back().step, 4);
  EXPECT_EQ(contents(after.back().path), saved);
  EXPECT_EQ(run_program({"train", file, "--resume", "auto", "--training.steps", "8"}).exit_code, 0);
}

TEST(TrainCommand, ALossThatIsNotFiniteStopsTheRun) {
  const Outcome outcome =
      run_program({"train", run_file("exploded"), "--optimizer.lr", "1e30", "--training.max_norm", "0"});
  EXPECT_EQ(outcome.exit_code, 1);
  const std::string last_line = outcome.err.substr(outcome.err.rfind('\n', outcome.err.size() - 2) + 1);
  EXPECT_TRUE(last_line.starts_with("deeptitan: step ")) << outcome.err;
  for (const char* part : {"not finite. First: ", "checkpoint", "--replay-step "}) {
    EXPECT_NE(last_line.find(part), std::string::npos) << part << ": " << last_line;
  }
}

TEST(TrainCommand, TextThatIsNotUtf8IsReplacedAndCounted) {
  std::string text = testing::sample_text(200);
  text[100] = '\xff';
  text[200] = '\xfe';
  const std::string path = sample().run("damaged.txt").string();
  std::ofstream(path, std::ios::binary) << text;
  const std::string file = run_file("damaged");
  for (const char* times : {"first", "from the cache"}) {
    const Outcome outcome = run_program(
        {"train", file, "--overwrite", "--training.steps", "1", "--data.sources", "[{path = \"" + path + "\"}]"});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_NE(outcome.err.find("warning: " + path + ": 2 places were not UTF-8 and became U+FFFD\n"), std::string::npos)
        << times << outcome.err;
  }
}

TEST(TrainCommand, WhatCannotBeReadIsNamed) {
  const std::string file = run_file("unread");
  const Outcome text = run_program({"train", file, "--data.sources", "[{path = \"/no/such.txt\"}]"});
  EXPECT_EQ(text.exit_code, 2);
  EXPECT_NE(text.err.find("/no/such.txt"), std::string::npos) << text.err;
  const Outcome tokenizer = run_program({"train", file, "--model.tokenizer", "/no/tokenizer"});
  EXPECT_NE(tokenizer.err.find("/no/tokenizer"), std::string::npos) << tokenizer.err;
  EXPECT_NE(tokenizer.exit_code, 0);
  EXPECT_FALSE(std::filesystem::exists(sample().run("unread")));
}

TEST(TrainCommand, ProgressAndChartAreNoWiderThanTheTerminal) {
  if (!testing::TerminalProgram::has_terminals())
    GTEST_SKIP() << "no pseudo-terminal can be opened (is /dev/pts mounted?)";
  for (const int columns : {60, 80, 200}) {
    const std::string file = run_file("columns" + std::to_string(columns));
    testing::TerminalProgram program({"train", file, "--training.steps", "8", "--validation.freq", "4"}, columns);
    EXPECT_EQ(program.finish(), 0) << program.shown();
    // What stands between two carriage returns or line feeds, in characters.
    std::string shown = program.shown();
    shown.erase(0, shown.find("step 1/8"));
    shown.resize(shown.find("model: "));
    int width = 0;
    int widest = 0;
    bool escape = false;
    for (const char c : shown) {
      if (c == '\r' || c == '\n') {
        width = 0;
      } else if (c == '\033') {
        escape = true;
      } else if (escape) {
        escape = std::isalpha(static_cast<unsigned char>(c)) == 0;
      } else if ((static_cast<unsigned char>(c) & 0xC0u) != 0x80) {
        widest = std::max(widest, ++width);
      }
    }
    EXPECT_LE(widest, columns);
    EXPECT_GT(widest, std::min(columns, 100) - 15);  // the room is used
    EXPECT_NE(shown.find("ETA"), std::string::npos);
    EXPECT_NE(shown.find(" bits/byte)"), std::string::npos);
  }
}

TEST(TrainCommand, AMessageClearsTheProgressLineAway) {
  if (!testing::TerminalProgram::has_terminals())
    GTEST_SKIP() << "no pseudo-terminal can be opened (is /dev/pts mounted?)";
  const std::string file = sample().run("passes.toml").string();
  const std::string text = sample().run("little.txt").string();
  std::ofstream(text) << testing::sample_text(60);
  std::string toml = sample().toml("passes");
  const std::string whole = (sample().path() / "text.txt").string();
  std::ofstream(file) << toml.replace(toml.find(whole), whole.size(), text);
  for (const int columns : {60, 80, 200}) {
    testing::TerminalProgram program(
        {"train", file, "--training.steps", "40", "--validation.fraction", "0", "--overwrite"}, columns);
    EXPECT_EQ(program.finish(), 0) << program.shown();
    const std::string& shown = program.shown();
    int64_t said = 0;
    for (size_t at = shown.find(": pass "); at != std::string::npos; at = shown.find(": pass ", at + 1)) {
      const size_t begin = shown.find_last_of("\r\n", at) + 1;
      EXPECT_EQ(shown.substr(begin, at - begin).find("step "), std::string::npos) << shown.substr(begin, at - begin);
      ++said;
    }
    EXPECT_GE(said, 2) << shown;
  }
}

TEST(TrainCommand, AFinishedRunSaysSo) {
  const std::string file = run_file("finished");
  ASSERT_EQ(run_program({"train", file, "--training.steps", "2"}).exit_code, 0);
  const Outcome again = run_program({"train", file, "--training.steps", "2", "--resume", "auto", "--metrics.log_freq",
                                     "7", "--checkpoint.interval", "1", "--validation.freq", "3", "--threads", "1"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.out.find("the run is finished: all 2 steps were done before; raise training.steps to go on"),
            std::string::npos)
      << again.out;
  EXPECT_NE(again.err.find("resuming with metrics.log_freq = 7 (it was 1)"), std::string::npos) << again.err;
}

}  // namespace
}  // namespace deeptitan
