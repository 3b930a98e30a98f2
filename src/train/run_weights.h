#pragma once

#include <memory>
#include <optional>

#include "checkpoint/model_directory.h"
#include "checkpoint/run_checkpoints.h"
#include "config/model_config.h"
#include "config/run_config.h"
#include "train/training_engine.h"

namespace deeptitan {

/// Fills an allocated engine with what a run goes on from: a checkpoint with the optimizer's state, else the weights of
/// model.initial_checkpoint, else weights drawn by training.seed. Returns the directory that the weights came from;
/// nullptr where they were drawn.
std::shared_ptr<const ModelDirectory> load_run_weights(const RunConfig& config, const ModelConfig& model_config,
                                                       const std::optional<CheckpointEntry>& checkpoint,
                                                       TrainingEngine& engine);

}  // namespace deeptitan
