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

/// Writes the model as a Hugging Face directory (weights in `dtype`, config.json, the tokenizer's files where there is
/// one, generation_config.json). The directory must exist.
void export_model(const std::filesystem::path& directory, TrainingEngine& engine, DType dtype,
                  const Tokenizer* tokenizer);

/// Writes checkpoint `progress.step` into `folder`, whole or not at all: the model's directory, and beside it the state
/// from which training goes on with the same bits. Removes all but the last `keep` checkpoints afterwards.
void save_checkpoint(const std::filesystem::path& folder, const TrainingProgress& progress, TrainingEngine& engine,
                     DType dtype, const Tokenizer* tokenizer, int64_t keep);

/// The progress that a checkpoint was saved with.
TrainingProgress read_progress(const std::filesystem::path& checkpoint);

/// Puts an allocated engine where save_checkpoint found it.
void load_checkpoint(const std::filesystem::path& checkpoint, TrainingEngine& engine);

}  // namespace deeptitan
