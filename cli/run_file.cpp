#include "run_file.h"

#include <utility>

#include "core/error.h"
#include "hub/cached_model.h"

namespace deeptitan {
namespace {

void find_model(const char* key, std::string& model, MissingModel missing) {
  if (model.empty()) return;
  try {
    model = model_directory_of(model).string();
  } catch (const Error& error) {
    if (missing == MissingModel::kRefused) fail_usage("{} = {}: {}", key, model, error.what());
  }
}

}  // namespace

RunConfig load_run_file(const std::string& path, std::span<const ConfigOverride> overrides, MissingModel missing) {
  RunConfig config = load_run_config(path, overrides);
  find_model("model.initial_checkpoint", config.model.initial_checkpoint, missing);
  find_model("model.tokenizer", config.model.tokenizer, missing);
  find_model("model.config", config.model.config, missing);
  return config;
}

}  // namespace deeptitan
