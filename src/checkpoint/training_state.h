#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors_writer.h"

namespace deeptitan {

/// The small values of a training state by name: step, tokens, position in the data, the run's configuration as text,
/// counters of random numbers. Reading one that is missing or of another type is an Error that names it and the file.
class TrainingStateMetadata {
 public:
  TrainingStateMetadata() = default;
  /// Parses a JSON object of numbers and texts; `file` is its name in errors.
  static TrainingStateMetadata parse(std::string_view json, std::string_view file);
  /// The JSON object; reals are written with as many digits as they need to come back with the same bits.
  std::string dump() const;

  void set_integer(const std::string& key, int64_t value) { values_[key] = value; }
  /// Throws Error if the value is not finite.
  void set_real(const std::string& key, double value);
  void set_text(const std::string& key, std::string value) { values_[key] = std::move(value); }

  bool contains(std::string_view key) const { return values_.find(key) != values_.end(); }
  int64_t integer(std::string_view key) const;
  double real(std::string_view key) const;
  const std::string& text(std::string_view key) const;

 private:
  using Value = std::variant<int64_t, double, std::string>;
  const Value& at(std::string_view key) const;

  std::map<std::string, Value, std::less<>> values_;
  std::string file_ = "training state";
};

/// Writes what a trainer needs beyond the model (optimizer moments, fp32 master weights, ...) into a directory:
/// `state.safetensors`, or `state-0000i-of-0000n.safetensors` with `state.safetensors.index.json`, and `state.json`,
/// which comes last: a directory without it holds no training state. Not atomic by itself: write into an
/// AtomicDirectory.
class TrainingStateWriter {
 public:
  /// Creates the directory if it is missing.
  TrainingStateWriter(const std::filesystem::path& directory, std::vector<TensorDeclaration> tensors,
                      uint64_t max_shard_bytes = uint64_t{5'000'000'000});
  /// Appends `bytes` bytes to the tensor, row-major.
  void write(std::string_view name, const void* data, size_t bytes) { tensors_.write(name, data, bytes); }
  /// Throws Error naming the first tensor that lacks bytes.
  void finish(const TrainingStateMetadata& metadata);

 private:
  std::filesystem::path directory_;
  ShardedSafetensorsWriter tensors_;
};

/// Reads what TrainingStateWriter wrote.
class TrainingStateReader {
 public:
  /// Throws Error if the directory holds no training state or a damaged one.
  explicit TrainingStateReader(const std::filesystem::path& directory);

  const TrainingStateMetadata& metadata() const { return metadata_; }
  const ModelDirectory& tensors() const { return tensors_; }
  /// Throws Error unless the state has exactly these tensors with these shapes and dtypes; the message names the first
  /// that is missing, extra or different, and how many there are.
  void check(const std::vector<TensorDeclaration>& expected) const;
  /// Copies the tensor to `destination`, which has `bytes` bytes, and releases its pages; throws Error if the tensor is
  /// missing or has another size.
  void read(std::string_view name, void* destination, size_t bytes) const;

 private:
  TrainingStateMetadata metadata_;
  ModelDirectory tensors_;
};

/// A checkpoint of a run: the model's directory of that step, with the training state in `training_state/`.
struct CheckpointEntry {
  int64_t step;
  std::filesystem::path path;
};

/// Where a checkpoint keeps its training state: "training_state".
inline constexpr std::string_view kTrainingStateDirectory = "training_state";

/// "step-00000100"
std::string checkpoint_name(int64_t step);

/// The complete checkpoints in a run's folder by increasing step; empty if the folder does not exist. Leftovers of
/// killed runs are recovered or removed first (recover_directories).
std::vector<CheckpointEntry> list_checkpoints(const std::filesystem::path& folder);

/// The complete checkpoint with the largest step.
std::optional<CheckpointEntry> latest_checkpoint(const std::filesystem::path& folder);

/// Removes all but the last `keep` checkpoints (at least 1); a removal that is interrupted leaves nothing half-removed
/// in place.
void remove_old_checkpoints(const std::filesystem::path& folder, int64_t keep);

}  // namespace deeptitan
