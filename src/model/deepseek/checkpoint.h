#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "checkpoint/model_directory.h"
#include "core/execution_context.h"
#include "model/deepseek/deepseek_model.h"

namespace deeptitan {

/// Fills the fp32 values of a model that is to be trained from a Hugging Face directory (any float dtype, or fp8 with
/// block scales). Tensors of next-token-prediction modules that the model does not have are left unread. Throws Error
/// that names the first missing, misshaped or unknown tensor and says how many there are, and the first with a value
/// that is not finite. Call refresh() afterwards.
void load_for_training(const ModelDirectory& directory, DeepseekModel& model);

/// Fills a model that is to be run: the values that layers read directly, and the prepared weights straight from the
/// mapped files, one parameter at a time, so that no second copy of the weights exists. Throws as load_for_training.
void load_for_inference(ExecutionContext& ctx, const ModelDirectory& directory, DeepseekModel& model);

/// Writes model.safetensors (in shards where large) and config.json into an existing directory. Matrices and norms are
/// rounded to `dtype` (f32 or bf16); buffers such as the router's bias stay fp32.
void save_model(const std::filesystem::path& directory, const DeepseekModel& model, DType dtype);

}  // namespace deeptitan
