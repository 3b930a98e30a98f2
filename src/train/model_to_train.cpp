#include "train/model_to_train.h"

#include <filesystem>

#include <fmt/format.h>

#include "checkpoint/model_directory.h"
#include "core/log.h"
#include "model/deepseek/checkpoint.h"

namespace deeptitan {

ModelConfig model_to_train(const RunConfig& config) {
  ModelConfig model = resolve_model_config(config);
  const std::filesystem::path folder = config.model.initial_checkpoint;
  const bool has_weights = !folder.empty() && (std::filesystem::exists(folder / "model.safetensors") ||
                                               std::filesystem::exists(folder / "model.safetensors.index.json"));
  if (!has_weights || model.num_nextn_predict_layers == 0) return model;
  if (has_next_token_prediction(ModelDirectory(folder), model)) return model;
  model.num_nextn_predict_layers = 0;
  if (config.training.mtp_loss_weight > 0) {
    log_warning(fmt::format(
        "{} announces next-token prediction but has no weights for it: the model is trained without", folder.string()));
  }
  return model;
}

}  // namespace deeptitan
