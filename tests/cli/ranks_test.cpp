// Training over many ranks as a user runs it: who prints, what ends it, what is left, and how it goes on.

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/run_checkpoints.h"
#include "cli/program.h"
#include "cli/rank_runs.h"
#include "core/clock.h"
#include "support/sample_run.h"

namespace deeptitan {
namespace {

using testing::count;
using testing::expect_close;
using testing::expect_none_left;
using testing::losses;
using testing::mpirun;
using testing::Outcome;
using testing::process_of_rank;
using testing::processes_with;
using testing::Program;
using testing::run_file;
using testing::run_program;
using testing::sample;

TEST(Ranks, TwoTrainAsOneAndTheFirstSpeaks) {
  const Outcome alone = run_program({"train", run_file("alone")});
  ASSERT_EQ(alone.exit_code, 0) << alone.err;
  const std::string file = run_file("two");
  const Outcome two = run_program({"train", file, "--ranks", "2"});
  ASSERT_EQ(two.exit_code, 0) << two.err;
  // The first rank's alone, behind what had been tokenised.
  EXPECT_EQ(count(two.err, " tokens to train on,"), 1) << two.err;
  EXPECT_NE(two.out.find("\n2 ranks: pp 1 x ep 1 x dp_shard 2 x dp_replicate 1\n"), std::string::npos) << two.out;
  EXPECT_EQ(count(two.out, "\nstep 8/8"), 1) << two.out;
  EXPECT_TRUE(two.out.ends_with("\nmodel: " + (sample().run("two") / "model").string() + "\n")) << two.out;
  expect_close(losses("two"), losses("alone"));
  // Experts on both ranks, started by mpirun itself.
  const Outcome experts = run_program({"train", run_file("experts"), "--parallelism.expert_parallel_degree", "2",
                                       "--parallelism.zero_stage", "2", "--parallelism.expert_room", "2"},
                                      {.launcher = mpirun(2)});
  ASSERT_EQ(experts.exit_code, 0) << experts.err;
  EXPECT_NE(experts.out.find("\n2 ranks: pp 1 x ep 2 x dp_shard 1 x dp_replicate 1\n"), std::string::npos);
  EXPECT_EQ(count(experts.out, "\nstep 8/8"), 1) << experts.out;
  const Outcome stages =
      run_program({"train", run_file("stages"), "--ranks", "2", "--parallelism.pipeline_parallel_degree", "2",
                   "--metrics.sample_freq", "4", "--metrics.sample_max_new_tokens", "3"});
  ASSERT_EQ(stages.exit_code, 0) << stages.err;
  EXPECT_NE(stages.out.find("\n2 ranks: pp 2 x ep 1 x dp_shard 1 x dp_replicate 1\n"), std::string::npos);
  EXPECT_EQ(count(stages.out, "--- step 8: "), 1) << stages.out;
  expect_close(losses("stages"), losses("alone"));
  // The same run again has the same bits.
  const Outcome again = run_program({"train", run_file("two-again"), "--ranks", "2"});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(losses("two-again"), losses("two"));
}

TEST(Ranks, WhatIsNotThereIsSaidOnceBeforeAnythingStarts) {
  const std::string file = run_file("refused");
  const auto refused = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"train", file};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = run_program(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  };
  EXPECT_EQ(refused({"--ranks", "4", "--parallelism.expert_parallel_degree", "3"}).substr(0, 25),
            "deeptitan: parallelism: p");
  EXPECT_EQ(refused({"--ranks", "4"}),
            "deeptitan: training.global_batch_size = 12 is not a multiple of training.local_batch_size = 2 times the 4 "
            "ranks that take different sequences; use 8 or 16\n");
  EXPECT_EQ(
      refused({"--ranks", "2", "--parallelism.pipeline_parallel_degree", "2",
               "--parallelism.pipeline_parallel_schedule", "Interleaved1F1B"}),
      "deeptitan: parallelism.pipeline_parallel_degree = 2 with 2 stages a rank is more stages than the model's 2 "
      "layers; use at most 1\n");
  EXPECT_EQ(
      refused({"--ranks", "2", "--training.global_batch_size", "12", "--parallelism.expert_parallel_degree", "2",
               "--device", "cpu", "--parallelism.expert_dispatcher", "on_device"}),
      "deeptitan: parallelism.expert_dispatcher = on_device is for ranks with a GPU each, and these run on cpu; use "
      "all_to_all or auto\n");
  ::setenv("DEEPTITAN_MPI", "/nowhere/libdeeptitan_mpi.so", 1);
  const std::string plugin = refused({"--ranks", "2"});
  ::unsetenv("DEEPTITAN_MPI");
  EXPECT_TRUE(plugin.starts_with("deeptitan: many ranks talk over MPI, but cannot open /nowhere/libdeeptitan_mpi.so: "))
      << plugin;
  const std::string path = ::getenv("PATH");
  ::setenv("PATH", "/nowhere", 1);
  const std::string launcher = refused({"--ranks", "2"});
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_EQ(
      launcher,
      "deeptitan: --ranks 2 needs mpirun, which cannot be started: No such file or directory; install openmpi-bin, "
      "or put it on PATH\n");
  EXPECT_FALSE(std::filesystem::exists(sample().run("refused")));
  const Outcome other = run_program({"inspect", "tiny-v3"}, {.launcher = mpirun(2)});
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_EQ(count(other.err, "deeptitan: inspect runs in one process, and mpirun has started 2"), 1) << other.err;
}

TEST(Ranks, RunsThatAreNotAlikeAreNamed) {
  const std::string first = run_file("first"), second = run_file("first-changed");
  std::vector<std::string> arguments = {"train",           first, ":", "-np", "1", DT_PROGRAM, "train", first,
                                        "--training.seed", "6"};
  const Outcome outcome = run_program(arguments, {.launcher = mpirun(1)});
  EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
  EXPECT_NE(outcome.err.find("deeptitan: all ranks of a run must be alike; the configuration of rank 1 is not that of "
                             "rank 0: 'seed = 5' on rank 0, 'seed = 6' on rank 1\n"),
            std::string::npos)
      << outcome.err;
  EXPECT_FALSE(std::filesystem::exists(sample().run("first")));
}

// The others are ended by the launcher.
TEST(Ranks, ARankThatDiesEndsTheRun) {
  const std::string file = run_file("dies");
  Program program({"train", file, "--ranks", "3", "--training.steps", "100000", "--validation.freq", "0"});
  ASSERT_TRUE(program.wait_for_output("step 2/"));
  const double start = monotonic_seconds();
  ::kill(process_of_rank(file, 1), SIGKILL);
  const Outcome outcome = program.finish();
  EXPECT_NE(outcome.exit_code, 0);
  expect_none_left(file, start);
}

TEST(Ranks, ARankThatStopsIsNamedByTheOthers) {
  const std::string file = run_file("stops");
  Program program({"train", file, "--ranks", "3", "--training.steps", "100000", "--validation.freq", "0",
                   "--parallelism.deadline_seconds", "2"});
  ASSERT_TRUE(program.wait_for_output("step 2/"));
  const double start = monotonic_seconds();
  ::kill(process_of_rank(file, 1), SIGSTOP);
  const Outcome outcome = program.finish();
  EXPECT_LT(monotonic_seconds() - start, 10);
  EXPECT_NE(outcome.exit_code, 0);
  const size_t named = outcome.err.find("deeptitan: rank 0 has waited 2 s in ");
  ASSERT_NE(named, std::string::npos) << outcome.err;
  const std::string message = outcome.err.substr(named, outcome.err.find('\n', named) - named);
  EXPECT_TRUE(message.find(", in step ") != std::string::npos || message.find(", after step ") != std::string::npos)
      << message;
  // Rank 2 may wait for it one exchange behind.
  EXPECT_TRUE(message.find(", for rank 1: it has stopped, hangs, or ") != std::string::npos ||
              message.find(", for ranks 1, 2: it has stopped, hangs, or ") != std::string::npos)
      << message;
  expect_none_left(file, start);
}

// The first stage waits for the second, and that one for the last, which has stopped: the second has time to say so.
TEST(Ranks, OneThatIsWaitedForSaysForWhomItWaits) {
  const std::string file = run_file("stops-behind");
  Program program({"train", file, "--ranks", "3", "--model.shape.num_hidden_layers", "3",
                   "--parallelism.pipeline_parallel_degree", "3", "--training.steps", "100000", "--validation.freq",
                   "0", "--parallelism.deadline_seconds", "2"});
  ASSERT_TRUE(program.wait_for_output("step 2/"));
  const double start = monotonic_seconds();
  ::kill(process_of_rank(file, 2), SIGSTOP);
  const Outcome outcome = program.finish();
  EXPECT_LT(monotonic_seconds() - start, 10);
  EXPECT_NE(outcome.exit_code, 0);
  EXPECT_TRUE(std::regex_search(
      outcome.err, std::regex("deeptitan: rank 0 has waited 2 s in [a-z_]+ of group [a-z ]+, (in|after) step ")))
      << outcome.err;
  EXPECT_TRUE(std::regex_search(outcome.err, std::regex("deeptitan: rank 1: rank 1 has waited 2 s in [a-z_]+ of group "
                                                        "[a-z ]+, (in|after) step [0-9]+, for ranks? (0, )?2: ")))
      << outcome.err;
  expect_none_left(file, start);
}

TEST(Ranks, AnInterruptOfOneSavesOnAllAndTheRunGoesOn) {
  const std::string file = run_file("interrupted");
  for (const bool of_launcher : {false, true}) {
    Program program(
        {"train", file, "--ranks", "2", "--training.steps", "100000", "--validation.freq", "0", "--resume", "auto"});
    ASSERT_TRUE(program.wait_for_output("step "));
    if (of_launcher) {
      program.send_signal(SIGINT);
    } else {
      ::kill(process_of_rank(file, 1), SIGTERM);
    }
    const Outcome outcome = program.finish();
    EXPECT_EQ(outcome.exit_code, 130) << outcome.err;
    const int64_t step = latest_checkpoint(sample().run("interrupted") / "checkpoints").value().step;
    EXPECT_NE(outcome.out.find("interrupted: step " + std::to_string(step) + " is saved; go on with --resume auto\n"),
              std::string::npos)
        << outcome.out;
    expect_none_left(file, monotonic_seconds());
  }
}

// Killed at some moment, and gone on with on another number of ranks, it has the losses of the unbroken run.
TEST(Ranks, KilledRunsGoOnOnOtherNumbersOfRanks) {
  const Outcome whole = run_program({"train", run_file("unbroken")});
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  const std::string file = run_file("broken");
  const auto arguments = [&](int ranks) {
    return std::vector<std::string>{"train", file, "--resume", "auto", "--ranks", std::to_string(ranks)};
  };
  for (const int ranks : {2, 3}) {
    Program program(arguments(ranks));
    ASSERT_TRUE(program.wait_for_output(ranks == 2 ? "step 2/" : "step 6/"));
    ::kill(process_of_rank(file, 0), SIGKILL);
    EXPECT_NE(program.finish().exit_code, 0);
    expect_none_left(file, monotonic_seconds());
  }
  const Outcome last = run_program({"train", file, "--resume", "auto"});
  EXPECT_EQ(last.exit_code, 0) << last.err;
  expect_close(losses("broken"), losses("unbroken"));
}

// Killed at random moments, also while it saves, a run has the bits of the unbroken one. DEEPTITAN_KILLS: how often.
TEST(Ranks, KilledAtRandomMomentsItKeepsItsBits) {
  const auto arguments = [](const std::string& file) {
    return std::vector<std::string>{"train",
                                    file,
                                    "--resume",
                                    "auto",
                                    "--ranks",
                                    "2",
                                    "--training.steps",
                                    "120",
                                    "--validation.freq",
                                    "0",
                                    "--checkpoint.interval",
                                    "3"};
  };
  const Outcome whole = run_program(arguments(run_file("long-unbroken")));
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  const std::string file = run_file("long-broken");
  const char* wanted = std::getenv("DEEPTITAN_KILLS");
  const int kills = wanted == nullptr ? 4 : std::atoi(wanted);
  std::mt19937 random(17);
  for (int i = 0; i < kills; ++i) {
    Program program(arguments(file));
    ASSERT_TRUE(program.wait_for_output("a rank; matrix peak ")) << program.finish().err;
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 700));
    const int victim = static_cast<int>(random() % 2);
    for (const auto& [pid, rank] : processes_with(file)) {
      if (rank == victim) ::kill(pid, SIGKILL);
    }
    program.finish();
    expect_none_left(file, monotonic_seconds());
  }
  const Outcome last = run_program(arguments(file));
  EXPECT_EQ(last.exit_code, 0) << last.err;
  EXPECT_EQ(losses("long-broken"), losses("long-unbroken"));
}

}  // namespace
}  // namespace deeptitan
