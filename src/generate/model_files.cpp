#include "generate/model_files.h"

#include "checkpoint/model_directory.h"
#include "config/model_config_json.h"

namespace deeptitan {

ModelFiles open_model_files(const std::filesystem::path& directory) {
  const ModelConfig config = load_model_config(directory);
  const Tokenizer tokenizer = Tokenizer::load(directory);
  return {directory, config, tokenizer, load_generation_config(directory, config, tokenizer)};
}

std::unique_ptr<InferenceEngine> load_engine(const ModelFiles& files, const InferenceOptions& options) {
  auto engine = std::make_unique<InferenceEngine>(files.config, options);
  const ModelDirectory weights(files.directory);
  engine->allocate();
  engine->load(weights);
  return engine;
}

}  // namespace deeptitan
