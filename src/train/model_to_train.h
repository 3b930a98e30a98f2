#pragma once

#include "config/run_config.h"

namespace deeptitan {

/// resolve_model_config, and what the weights of model.initial_checkpoint add: next-token-prediction modules that its
/// config.json announces and that it has no weights for (as transformers writes such a model) are not trained, which a
/// warning says.
ModelConfig model_to_train(const RunConfig& config);

}  // namespace deeptitan
