#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "config/model_config.h"

namespace deeptitan {

/// A model's shape from the text of a Hugging Face config.json: as on the hub (rope_theta, rope_scaling) or as
/// transformers 5 writes it (rope_parameters, rope_interleave). Fields that transformers leaves out take its defaults.
/// Throws a usage error that begins with `where` and names the field and what it may be.
ModelConfig parse_model_config(std::string_view json_text, std::string_view where);

/// parse_model_config of a file, or of the config.json inside a directory.
ModelConfig load_model_config(const std::filesystem::path& path);

/// The text of a config.json that transformers 4 and 5 both load; fields the model came with are written back. The
/// weights beside it are of `torch_dtype` ("float32" or "bfloat16").
std::string to_json(const ModelConfig& config, std::string_view torch_dtype);

/// `config` with fields replaced by those of `overrides`, a JSON object with config.json's names. Throws a usage error
/// that begins with `where` for a name that is none of them (with the nearest), or where the result does not fit.
ModelConfig with_overrides(const ModelConfig& config, std::string_view overrides, std::string_view where);

}  // namespace deeptitan
