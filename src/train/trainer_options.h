#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "comm/transport.h"
#include "core/device_choice.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {

class TrainingEngine;

/// Where a run begins.
enum class ResumeMode {
  kNew,        // in a folder that holds no run
  kOverwrite,  // a new run; what is in the folder is removed first
  kAuto,       // from the latest checkpoint, or new where there is none
  kLatest,     // from the latest checkpoint
  kStep,       // from the checkpoint of one step
};

struct TrainerOptions {
  ResumeMode resume = ResumeMode::kNew;
  int64_t resume_step = 0;             // for kStep
  std::optional<int64_t> replay_step;  // repeat this one step from the checkpoint before it, and write nothing
  const std::atomic<bool>* interrupt = nullptr;  // set from outside: finish the step, save, return
  /// Steps that are queued before one's result is looked at, 0 or 1; nullopt: 0 on the CPU, 1 on CUDA. It changes what
  /// waits for what, and nothing else.
  std::optional<int> report_lag;
  /// The ranks that train together, which all call train() with the same configuration; nullptr: this process alone.
  Transport* ranks = nullptr;
  HostPlace host_place = {};  // among those that share this host's memory and GPUs
  std::string program;        // the version, which all ranks must have alike
  /// Called for the steps that metrics.sample_freq asks for, on all ranks; prints what the model would write.
  std::function<void(TrainingEngine&, const Tokenizer&, int64_t step)> sample;
};

}  // namespace deeptitan
