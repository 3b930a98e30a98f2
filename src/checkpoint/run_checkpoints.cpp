#include "checkpoint/run_checkpoints.h"

#include <algorithm>
#include <charconv>

#include "checkpoint/atomic_directory.h"
#include "core/error.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kStepPrefix = "step-";

}  // namespace

std::string checkpoint_name(int64_t step) {
  return fmt::format("{}{:08}", kStepPrefix, step);
}

std::vector<CheckpointEntry> list_checkpoints(const fs::path& folder) {
  recover_directories(folder);
  std::vector<CheckpointEntry> checkpoints;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kStepPrefix)) continue;
    const char* begin = name.data() + kStepPrefix.size();
    const char* end = name.data() + name.size();
    int64_t step = 0;
    const auto [stop, problem] = std::from_chars(begin, end, step);
    if (problem != std::errc() || stop != end || step < 0 || checkpoint_name(step) != name) continue;
    if (fs::exists(entry.path() / kManifestFile) || fs::exists(entry.path() / kTrainingStateDirectory)) {
      checkpoints.push_back({step, entry.path()});
    }
  }
  std::sort(checkpoints.begin(), checkpoints.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return checkpoints;
}

std::optional<CheckpointEntry> latest_checkpoint(const fs::path& folder) {
  std::vector<CheckpointEntry> checkpoints = list_checkpoints(folder);
  if (checkpoints.empty()) return std::nullopt;
  return std::move(checkpoints.back());
}

void verify_checkpoint(const CheckpointEntry& checkpoint) {
  const std::string path = checkpoint.path.string();
  DT_CHECK(fs::exists(checkpoint.path / kManifestFile),
           "{0} has no {1}: an earlier version of deeptitan wrote it, or the file was lost. Its model can still be "
           "trained on, with model.initial_checkpoint = {0} and another job.dump_folder",
           path, kManifestFile);
  const Manifest manifest = verify_directory(checkpoint.path);
  DT_CHECK(manifest.step == checkpoint.step, "{} holds step {}, not the step of its name", path, manifest.step);
  const bool complete = manifest.files.contains("config.json") &&
                        manifest.files.contains(std::string(kTrainingStateDirectory) + "/state.json");
  DT_CHECK(complete, "{} is a directory of a model without its training state", path);
}

GoodCheckpoint last_good_checkpoint(const std::vector<CheckpointEntry>& checkpoints) {
  GoodCheckpoint good;
  for (auto entry = checkpoints.rbegin(); entry != checkpoints.rend(); ++entry) {
    try {
      verify_checkpoint(*entry);
      good.checkpoint = *entry;
      break;
    } catch (const Error& error) {
      good.damaged.push_back({*entry, error.what()});
    }
  }
  return good;
}

std::vector<std::string> remove_old_checkpoints(const fs::path& folder, int64_t keep) {
  DT_CHECK(keep >= 1, "at least 1 checkpoint must be kept, found {}", keep);
  const std::vector<CheckpointEntry> checkpoints = list_checkpoints(folder);
  const auto count = static_cast<int64_t>(checkpoints.size());
  std::vector<std::string> warnings;
  for (int64_t i = 0; i + keep < count; ++i) {
    const fs::path& path = checkpoints[static_cast<size_t>(i)].path;
    try {
      remove_directory(path);
    } catch (const Error& error) {
      warnings.push_back(fmt::format("{}; the checkpoint is kept as {}", error.what(), set_aside(path).string()));
    }
  }
  return warnings;
}

}  // namespace deeptitan
