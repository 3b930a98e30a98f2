#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/atomic_directory.h"
#include "checkpoint/model_directory.h"
#include "config/run_config.h"
#include "core/digest.h"
#include "data/batch_source.h"
#include "model/deepseek/checkpoint.h"
#include "tokenizer/tokenizer.h"
#include "train/checkpoint_snapshot.h"
#include "train/training_engine.h"

namespace deeptitan {

/// What a checkpoint holds beside the model and the optimizer.
struct TrainingProgress {
  int64_t step = 0;    // optimizer steps done
  int64_t tokens = 0;  // tokens seen
  DataPosition data;
  std::string config;       // the run's configuration as TOML
  FileDigest metrics = {};  // metrics.jsonl when the checkpoint was saved
};

/// How a model is written as a Hugging Face directory.
struct ModelExport {
  DType dtype = DType::kF32;             // of the weights; a checkpoint's are always f32
  const Tokenizer* tokenizer = nullptr;  // whose files are written beside them, where there is one
  std::string generation_config = {};    // text of generation_config.json; empty = made from the model's special tokens
  const ModelDirectory* carried_from = nullptr;  // see save_model
};

/// Writes the model as a Hugging Face directory: weights, config.json, the tokenizer's files with its chat template,
/// generation_config.json. The directory must exist. Returns the digests of the files of weights. Many ranks call it
/// together.
std::map<std::string, FileDigest> export_model(const std::filesystem::path& directory, TrainingEngine& engine,
                                               const ModelExport& how);

/// Sets a directory aside, and says so, that holds what the program did not write, so that nobody's work is removed and
/// the run's is not lost for want of a place.
void make_way(const std::filesystem::path& target);

/// Makes a directory that is in its place whole or not at all, with a manifest: `write` fills it, and returns the
/// digests of what it has written. The ranks of `host` (nullptr: this one alone) write it together; the first makes it,
/// and puts it in place when all have written.
void write_directory(const std::filesystem::path& target, int64_t step, Communicator* host,
                     const std::function<std::map<std::string, FileDigest>(const std::filesystem::path&)>& write);

/// Writes checkpoint `progress.step` into `folder`, whole or not at all: the model's directory in fp32, which holds the
/// masters, beside it the state from which training goes on with the same bits, and a manifest of all of it. Removes
/// all but the last `keep` checkpoints afterwards. Many ranks call it together, and each writes what it keeps: of the
/// model the tensors whose first element it updates, of the slots its slices; any layout of ranks reads any other's.
///
///   config.json  model*.safetensors  generation_config.json  tokenizer.json ...
///   training_state/optimizer-rank-00000.safetensors   the optimizer's slots as slices (SlotSlice), a file a rank
///   training_state/state.json                         TrainingProgress
///   manifest.json
void save_checkpoint(const std::filesystem::path& folder, const TrainingProgress& progress, TrainingEngine& engine,
                     const ModelExport& how, int64_t keep);

/// What save_checkpoint does, in parts: those in which ranks exchange something, which all call together between two
/// steps, and those that take long and ask nobody, which may run on another thread while steps go on. In this order:
/// the constructor, write, gather, finish, close; one rank alone may call finish before gather.
class CheckpointWriting {
 public:
  /// Makes the directory. What is given, but for the progress and `how`, stays while this lives. `snapshot`, taken
  /// between the same two steps, is what is written; nullptr: what lies in the engine, which then must not step.
  CheckpointWriting(const std::filesystem::path& folder, const TrainingProgress& progress, TrainingEngine& engine,
                    const ModelExport& how, int64_t keep, const CheckpointSnapshot* snapshot);

  /// Writes this rank's files, to the device. What goes wrong is kept for gather.
  void write() noexcept;
  /// Throws on all ranks what write() kept on one.
  void gather();
  /// On the first rank: the manifest, which comes last, the directory's place, and the removal of those that are not
  /// kept. What goes wrong is kept for close. Does nothing where write() has failed.
  void finish() noexcept;
  /// Throws on all ranks what finish() kept, and says what it had to say.
  void close();

  /// Lets write() end before its time, with an error. From any thread.
  void cancel() { cancelled_ = true; }

 private:
  void check_cancelled() const;
  void write_files();
  void put_in_place();

  const TrainingEngine& engine_;
  Communicator* host_;
  std::filesystem::path folder_;
  TrainingProgress progress_;
  int64_t updates_;
  ModelExport how_;
  int64_t keep_;
  const CheckpointSnapshot* snapshot_;
  std::optional<AtomicDirectory> directory_;  // of the first rank
  std::filesystem::path path_;
  std::optional<ModelWriter> model_;
  ShardedSafetensorsWriter::Shards shards_;  // this rank's, then all
  std::map<std::string, FileDigest> slots_;  // the same, by path in the checkpoint
  std::exception_ptr problem_;
  std::vector<std::string> warnings_;
  std::atomic<bool> cancelled_ = false;
};

/// The progress that a checkpoint was saved with.
TrainingProgress read_progress(const std::filesystem::path& checkpoint);

/// Puts an allocated engine where save_checkpoint found it. Returns the model's directory that the values came from.
std::shared_ptr<const ModelDirectory> load_checkpoint(const std::filesystem::path& checkpoint, TrainingEngine& engine);

}  // namespace deeptitan
