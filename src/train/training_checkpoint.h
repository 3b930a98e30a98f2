#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "config/run_config.h"
#include "data/batch_source.h"
#include "tokenizer/tokenizer.h"
#include "train/training_engine.h"

namespace deeptitan {

/// What a checkpoint holds beside the model and the optimizer.
struct TrainingProgress {
  int64_t step = 0;    // optimizer steps done
  int64_t tokens = 0;  // tokens seen
  DataPosition data;
  std::string config;  // the run's configuration as TOML
};

/// How a model is written as a Hugging Face directory.
struct ModelExport {
  DType dtype = DType::kF32;             // of the weights
  const Tokenizer* tokenizer = nullptr;  // whose files are written beside them, where there is one
  std::string generation_config = {};    // text of generation_config.json; empty = made from the model's special tokens
};

/// Writes the model as a Hugging Face directory: weights, config.json, the tokenizer's files with its chat template,
/// generation_config.json. The directory must exist.
void export_model(const std::filesystem::path& directory, TrainingEngine& engine, const ModelExport& how);

/// Sets a directory aside, and says so, that holds what the program did not write, so that nobody's work is removed and
/// the run's is not lost for want of a place.
void make_way(const std::filesystem::path& target);

/// Writes checkpoint `progress.step` into `folder`, whole or not at all: the model's directory, and beside it the state
/// from which training goes on with the same bits. Removes all but the last `keep` checkpoints afterwards.
void save_checkpoint(const std::filesystem::path& folder, const TrainingProgress& progress, TrainingEngine& engine,
                     const ModelExport& how, int64_t keep);

/// The progress that a checkpoint was saved with.
TrainingProgress read_progress(const std::filesystem::path& checkpoint);

/// Puts an allocated engine where save_checkpoint found it.
void load_checkpoint(const std::filesystem::path& checkpoint, TrainingEngine& engine);

}  // namespace deeptitan
