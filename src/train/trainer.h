#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "comm/transport.h"
#include "config/run_config.h"
#include "tokenizer/tokenizer.h"
#include "train/metrics_record.h"
#include "train/training_engine.h"

namespace deeptitan {

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
  int ranks_of_host = 1;  // that share this host's memory
  std::string program;    // the version, which all ranks must have alike
  /// Called for the steps that metrics.sample_freq asks for, on all ranks; prints what the model would write.
  std::function<void(TrainingEngine&, const Tokenizer&, int64_t step)> sample;
};

/// How a run ended.
struct TrainingOutcome {
  int64_t step = 0;
  bool interrupted = false;
  std::string model_folder;  // of the exported model; empty where the run was interrupted or replayed
};

/// Trains as `config` says: data, schedule, steps, validation, metrics, checkpoints, in job.dump_folder:
///   config.toml  metrics.jsonl  tensorboard/  checkpoints/step-...  loss.svg  model/
/// Throws a usage error before anything is written where the configuration, the folder, the data or the memory does not
/// allow the run, and Error where it fails on the way: the last checkpoint is then whole. Of many ranks the first
/// writes and prints; all write their parts of checkpoints, into the same folder. An interrupt of one is one of all.
TrainingOutcome train(const RunConfig& config, const TrainerOptions& options);

}  // namespace deeptitan
