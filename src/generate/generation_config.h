#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
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

/// What the text of a generation_config.json says alone; `where` is the file in errors.
GenerationConfig parse_generation_config(std::string_view text, std::string_view where, int64_t vocab_size);

}  // namespace deeptitan
