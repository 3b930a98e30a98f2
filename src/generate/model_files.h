#pragma once

#include <filesystem>
#include <memory>

#include "config/model_config.h"
#include "generate/generation_config.h"
#include "generate/inference_engine.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {

/// A Hugging Face model directory without its weights.
struct ModelFiles {
  std::filesystem::path directory;
  ModelConfig config;
  Tokenizer tokenizer;
  GenerationConfig generation;
};

/// Reads config.json, the tokenizer's files and generation_config.json.
ModelFiles open_model_files(const std::filesystem::path& directory);

/// Plans an engine for the model, refuses what does not fit in memory before anything is read, and loads the weights.
std::unique_ptr<InferenceEngine> load_engine(const ModelFiles& files, const InferenceOptions& options);

/// Takes the memory that a runner of the model has planned, and loads the weights.
void load_into(ModelRunner& runner, const ModelFiles& files);

}  // namespace deeptitan
