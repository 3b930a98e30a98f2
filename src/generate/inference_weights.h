#pragma once

#include <cstdint>

#include "core/execution_context.h"
#include "model/deepseek/deepseek_model.h"

namespace deeptitan {

/// Fills a model that is to be run from one in training, whose fp32 values it takes.
void copy_weights(ExecutionContext& ctx, const DeepseekModel& trained, DeepseekModel& model);

/// Fills a model that is to be run with the values that ParameterList::initialize draws for this seed, one parameter at
/// a time.
void draw_weights(ExecutionContext& ctx, uint64_t seed, DeepseekModel& model);

}  // namespace deeptitan
