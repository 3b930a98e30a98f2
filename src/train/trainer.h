#pragma once

#include <cstdint>
#include <string>

#include "config/run_config.h"
#include "train/trainer_options.h"

namespace deeptitan {

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
