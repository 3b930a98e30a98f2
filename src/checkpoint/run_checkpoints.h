#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"

namespace deeptitan {

/// A checkpoint of a run: an fp32 Hugging Face directory of the model at that step, beside it the training state in
/// `training_state/`, and a manifest of all of it.
struct CheckpointEntry {
  int64_t step;
  std::filesystem::path path;
};

/// Where a checkpoint keeps its training state: "training_state".
inline constexpr std::string_view kTrainingStateDirectory = "training_state";

/// "step-00000100"
std::string checkpoint_name(int64_t step);

/// The checkpoints in a run's folder by increasing step, good or damaged; empty if the folder does not exist. Leftovers
/// of killed runs are recovered or removed first (recover_directories).
std::vector<CheckpointEntry> list_checkpoints(const std::filesystem::path& folder);

/// The checkpoint with the largest step.
std::optional<CheckpointEntry> latest_checkpoint(const std::filesystem::path& folder);

/// Reads every byte of the checkpoint. Throws Error, naming the file, where one is not as it was written, where the
/// directory is another step's, and where there is no manifest: a checkpoint of an earlier version.
void verify_checkpoint(const CheckpointEntry& checkpoint);

/// A checkpoint that verify_checkpoint refuses, and why.
struct DamagedCheckpoint {
  CheckpointEntry checkpoint;
  std::string reason;
};

/// The last of `checkpoints` that is whole, and the damaged ones that come after it.
struct GoodCheckpoint {
  std::optional<CheckpointEntry> checkpoint;
  std::vector<DamagedCheckpoint> damaged;
};
GoodCheckpoint last_good_checkpoint(const std::vector<CheckpointEntry>& checkpoints);

/// Removes all but the last `keep` checkpoints (at least 1); a removal that is interrupted leaves nothing half-removed
/// in place. One that holds what the program did not write is set aside; returns what is to be said of that.
std::vector<std::string> remove_old_checkpoints(const std::filesystem::path& folder, int64_t keep);

}  // namespace deeptitan
