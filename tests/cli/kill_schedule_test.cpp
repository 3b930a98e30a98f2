// A run that is killed at random moments, also while it saves, goes on each time and ends with the bits of a run that
// never stopped. DEEPTITAN_KILLS sets how many kills; 6 of them belong to the tests that always run.

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <thread>

#include <gtest/gtest.h>

#include "checkpoint/run_checkpoints.h"
#include "cli/program.h"
#include "core/file.h"
#include "support/sample_run.h"

namespace deeptitan {
namespace {

using testing::Outcome;
using testing::Program;
using testing::run_program;

int64_t wanted_kills() {
  const char* kills = std::getenv("DEEPTITAN_KILLS");
  return kills == nullptr ? 6 : std::atoll(kills);
}

TEST(KillSchedule, ARunKilledAtAnyMomentEndsWithTheSameBits) {
  const testing::SampleRun sample;
  const int64_t kills = wanted_kills();
  const auto run_file = [&](const std::string& name) {
    const std::filesystem::path path = sample.run(name + ".toml");
    std::ofstream(path) << sample.toml(name, "steps = 60\ndtype = \"fp32\"\n");
    return path.string();
  };
  // Saved after every step: most of the time goes into saving.
  const std::vector<std::string> options = {"--validation.freq",          "0", "--checkpoint.interval", "1",
                                            "--checkpoint.keep_latest_k", "2"};
  const auto command = [&](const std::string& name, const std::string& how) {
    std::vector<std::string> arguments = {"train", run_file(name), "--resume", how};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return arguments;
  };
  ASSERT_EQ(run_program(command("straight", "auto")).exit_code, 0);
  const uint64_t key = random_key("test/kills", static_cast<uint64_t>(kills));
  int64_t done = 0;
  for (int64_t attempt = 0; done < kills; ++attempt) {
    if (attempt > 0 && std::filesystem::exists(sample.run("killed") / "model")) {
      std::filesystem::remove_all(sample.run("killed"));  // it came to its end: begin again
    }
    Program program(command("killed", "auto"));
    if (attempt % 4 != 3) program.wait_for_output("step ");  // else: while it begins
    std::this_thread::sleep_for(std::chrono::microseconds(random_bits(key, static_cast<uint64_t>(attempt)) % 60000));
    program.send_signal(SIGKILL);
    const Outcome outcome = program.finish();
    if (outcome.exit_code != 128 + SIGKILL) continue;  // too late
    ++done;
    EXPECT_EQ(outcome.err.find("damaged"), std::string::npos) << outcome.err;
    const auto checkpoints = list_checkpoints(sample.run("killed") / "checkpoints");
    for (const CheckpointEntry& checkpoint : checkpoints) EXPECT_NO_THROW(verify_checkpoint(checkpoint));
  }
  const Outcome last = run_program(command("killed", "auto"));
  ASSERT_EQ(last.exit_code, 0) << last.err;
  EXPECT_EQ(read_file(sample.run("killed") / "model/model.safetensors"),
            read_file(sample.run("straight") / "model/model.safetensors"));
  for (const auto& entry : std::filesystem::recursive_directory_iterator(sample.run("killed"))) {
    EXPECT_NE(entry.path().filename().string().front(), '.') << "left over: " << entry.path();
  }
}

}  // namespace
}  // namespace deeptitan
