#pragma once

#include <string>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/log.h"
#include "support/sample_run.h"
#include "train/trainer.h"

namespace deeptitan {

/// The text, tokenizer and folder that the tests of whole runs share.
inline const testing::SampleRun& sample() {
  static const testing::SampleRun run = [] {
    set_log_quiet(true);
    return testing::SampleRun();
  }();
  return run;
}

/// Trains without a word on standard output.
inline TrainingOutcome train_quietly(const RunConfig& config, const TrainerOptions& options = {}) {
  ::testing::internal::CaptureStdout();
  try {
    const TrainingOutcome outcome = train(config, options);
    ::testing::internal::GetCapturedStdout();
    return outcome;
  } catch (...) {
    ::testing::internal::GetCapturedStdout();
    throw;
  }
}

/// What a run fails with.
inline std::string error_of(const RunConfig& config, const TrainerOptions& options = {}) {
  try {
    train_quietly(config, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

inline TrainerOptions resume(ResumeMode mode) {
  TrainerOptions options;
  options.resume = mode;
  return options;
}

/// A learning rate that no model survives.
inline RunConfig exploding(const std::string& run) {
  RunConfig config = sample().config(run);
  config.optimizer.lr = 1e30;
  config.training.max_norm = 0;
  return config;
}

}  // namespace deeptitan
