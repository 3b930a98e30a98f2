#pragma once

#include "core/execution_context.h"
#include "model/deepseek/deepseek_model.h"

namespace deeptitan {

/// Fills a model that is to be run from one in training, whose fp32 values it takes.
void copy_weights(ExecutionContext& ctx, const DeepseekModel& trained, DeepseekModel& model);

}  // namespace deeptitan
