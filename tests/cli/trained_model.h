#pragma once

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "support/sample_run.h"

namespace deeptitan::testing {

/// For tests of commands that take a model: one of ten steps, trained once for a suite.
class TrainedModelTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    sample_ = new SampleRun;
    const std::string file = sample_->run("run.toml").string();
    std::ofstream(file) << sample_->toml("run", "steps = 10\ndtype = \"fp32\"\n");
    const Outcome outcome = run_program({"train", file, "--model.shape.max_position_embeddings", "128"});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  static void TearDownTestSuite() { delete sample_; }

  /// `deeptitan command --model ... --dtype f32`, and what else it is given.
  static Outcome run_on_model(const std::string& command, const std::vector<std::string>& more,
                              const std::string& input) {
    std::vector<std::string> all = {command, "--model", (sample_->run("run") / "model").string(), "--dtype", "f32"};
    all.insert(all.end(), more.begin(), more.end());
    return run_program(all, {.input = input});
  }
  /// The JSON lines of an output.
  static std::vector<nlohmann::json> lines(const Outcome& outcome) {
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    std::vector<nlohmann::json> found;
    std::istringstream text(outcome.out);
    for (std::string line; std::getline(text, line);) found.push_back(nlohmann::json::parse(line));
    return found;
  }
  /// Writes a file beside the run, and says where it is.
  static std::string write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(sample_->run(name).parent_path());
    std::ofstream(sample_->run(name)) << text;
    return sample_->run(name).string();
  }

  inline static const SampleRun* sample_ = nullptr;
};

}  // namespace deeptitan::testing
