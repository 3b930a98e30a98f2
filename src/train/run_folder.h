#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "config/run_config.h"
#include "core/folder_lock.h"

namespace deeptitan {

/// A run's folder: what lies where, who may write in it, and what in it is the run's own.
///
///   run.json   the record of the plain files below that runs have written here; nothing else makes a folder a run's
///   run.lock   there while a run writes here
///   config.toml  metrics.jsonl  loss.svg  tensorboard/events...
///   checkpoints/step-...  model/    directories with a manifest, which is their record
///
/// Nothing is removed or replaced that neither record lists.
class RunFolder {
 public:
  explicit RunFolder(std::filesystem::path root) : root_(std::move(root)) {}

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path config() const { return root_ / "config.toml"; }
  std::filesystem::path metrics() const { return root_ / "metrics.jsonl"; }
  std::filesystem::path tensorboard() const { return root_ / "tensorboard"; }
  std::filesystem::path checkpoints() const { return root_ / "checkpoints"; }
  std::filesystem::path loss_svg() const { return root_ / "loss.svg"; }
  std::filesystem::path model() const { return root_ / "model"; }

  /// Whether a run has written here: there is a record.
  bool holds_a_run() const;

  /// Takes the folder for this process where it exists. Throws Error that names the process which has it.
  void lock();
  /// Whether the folder that was locked still stands in its place.
  bool held() const { return lock_ && lock_->in_place(); }
  /// Whether it does, with the folder of its checkpoints.
  bool in_place() const;

  /// Throws a usage error, naming the path, where something that the run would write is there and no run wrote it, or
  /// is of another kind (a folder for a file). With `resuming`, the files beside the checkpoints are the run's.
  void check_free(bool resuming) const;
  /// Throws a usage error, naming the path, unless everything that clear() would remove was written by a run.
  void check_clearable() const;
  /// Throws a usage error where one of the files that `config` reads lies in what the run replaces.
  void check_inputs(const RunConfig& config) const;

  /// Removes what runs have written.
  void clear();
  /// Creates the folder, takes it, and begins the record or goes on with it.
  void claim(bool resuming);
  /// Adds a file to the record, before it is written.
  void record(const std::filesystem::path& file);

 private:
  std::filesystem::path record_file() const { return root_ / "run.json"; }
  void remove_unfinished_files() const;
  std::set<std::string> read_record() const;
  void write_record() const;

  std::filesystem::path root_;
  std::optional<FolderLock> lock_;
  std::set<std::string> files_;  // relative to the root
};

}  // namespace deeptitan
