#pragma once

#include "config/model_config.h"
#include "model/layer_plan.h"

namespace deeptitan {

/// The layers that a DeepSeek-V2 or V3 config.json means, and the names of their tensors in a checkpoint.
ModelPlan plan_deepseek(const ModelConfig& config);

/// The routers' part of it.
RouterOptions deepseek_router(const ModelConfig& config);

}  // namespace deeptitan
