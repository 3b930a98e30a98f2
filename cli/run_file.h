#pragma once

#include <span>
#include <string>

#include "config/run_config_toml.h"

namespace deeptitan {

enum class MissingModel { kRefused, kLeft };

/// load_run_config, where model.initial_checkpoint, model.tokenizer and model.config may name a downloaded model
/// (OWNER/NAME or a short name): the key becomes its directory in the hub's cache, so that a run that is resumed has
/// the same files. A model that is not there is a usage error that names the key and says how to fetch it, or is left.
RunConfig load_run_file(const std::string& path, std::span<const ConfigOverride> overrides = {},
                        MissingModel missing = MissingModel::kRefused);

}  // namespace deeptitan
