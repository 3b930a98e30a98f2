#pragma once

#include <optional>
#include <vector>

#include "checkpoint/run_checkpoints.h"
#include "config/run_config.h"
#include "train/run_folder.h"
#include "train/run_ranks.h"
#include "train/trainer_options.h"

namespace deeptitan {

/// Where a run begins.
struct RunStart {
  std::optional<CheckpointEntry> checkpoint;  // nullopt: anew
  std::vector<DamagedCheckpoint> damaged;     // that come after it; of the first rank
};

/// Which checkpoint to begin from, and whether the folder may be used at all: throws a usage error where not. The first
/// rank looks, which may mean to read whole checkpoints, and the others begin where it does.
RunStart find_start_of_all(const RunConfig& config, const TrainerOptions& options, RunFolder& folder,
                           const RunRanks& ranks);

}  // namespace deeptitan
