#pragma once

#include <memory>

#include "train/training_engine.h"

namespace deeptitan::testing {

/// An engine with its memory and a new model, the same one every time.
inline std::unique_ptr<TrainingEngine> drawn_engine(const ModelConfig& config, const TrainingEngineOptions& options) {
  auto engine = std::make_unique<TrainingEngine>(config, options);
  engine->allocate();
  engine->initialize(7);
  return engine;
}

}  // namespace deeptitan::testing
