#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "checkpoint/model_directory.h"
#include "config/run_config.h"
#include "core/digest.h"
#include "data/batch_source.h"
#include "tokenizer/tokenizer.h"
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
                     ModelExport how, int64_t keep);

/// The progress that a checkpoint was saved with.
TrainingProgress read_progress(const std::filesystem::path& checkpoint);

/// Puts an allocated engine where save_checkpoint found it. Returns the model's directory that the values came from.
std::shared_ptr<const ModelDirectory> load_checkpoint(const std::filesystem::path& checkpoint, TrainingEngine& engine);

}  // namespace deeptitan
