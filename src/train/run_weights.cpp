#include "train/run_weights.h"

#include <fmt/format.h>

#include "checkpoint/manifest.h"
#include "checkpoint/read_tensor.h"
#include "core/log.h"
#include "model/model_cost.h"
#include "train/training_checkpoint.h"

namespace deeptitan {

std::shared_ptr<const ModelDirectory> load_run_weights(const RunConfig& config, const ModelConfig& model_config,
                                                       const std::optional<CheckpointEntry>& checkpoint,
                                                       TrainingEngine& engine) {
  if (checkpoint) return load_checkpoint(checkpoint->path, engine);
  if (config.model.initial_checkpoint.empty()) {
    engine.initialize(config.training.seed);
    return nullptr;
  }
  check_model_directory(config.model.initial_checkpoint);
  auto directory = std::make_shared<const ModelDirectory>(config.model.initial_checkpoint);
  if (holds_float8(*directory)) {
    const auto parameters = static_cast<uint64_t>(count_parameters(model_config).parameters);
    log_info(fmt::format("the fp8 weights of {} ({}) are widened to fp32: {} of memory", directory->path().string(),
                         format_bytes(directory->file_bytes()), format_bytes(sizeof(float) * parameters)));
  }
  engine.load(directory);
  return directory;
}

}  // namespace deeptitan
