#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "config/model_config.h"
#include "generate/sampler.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {

/// What a model directory says about generating from it.
struct GenerationConfig {
  std::vector<int32_t> end_ids;  // sorted: any of these ends a text
  SamplingOptions sampling;      // as generation_config.json recommends where its do_sample is true, else the defaults
  bool names_temperature = false;  // whether that is one of its recommendations
};

/// Reads generation_config.json where there is one. A text ends at each of its eos_token_id, at those of config.json,
/// and at the tokenizer's eos_token. Throws Error that names the file and the field where it cannot be read.
GenerationConfig load_generation_config(const std::filesystem::path& directory, const ModelConfig& config,
                                        const Tokenizer& tokenizer);

}  // namespace deeptitan
