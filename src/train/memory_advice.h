#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "config/run_config.h"
#include "train/training_engine.h"

namespace deeptitan {

/// In what order one of the ranks of `groups` runs a step's microbatches.
Schedule schedule_of_run(const RunConfig& config, const RankGroups& groups);

/// The engine's options that a run's configuration asks for, of one of the ranks of `groups`. `bfloat16_is_native`
/// decides training.dtype = "auto". A GPU need not be here: whoever runs the engine asks choose_device before.
TrainingEngineOptions engine_options(const RunConfig& config, bool bfloat16_is_native, const RankGroups& groups = {});

/// A change of the configuration that would make a run fit.
struct MemoryAdvice {
  std::string change;  // "training.local_batch_size = 4"
  int64_t bytes;       // the plan's total with it
};

/// The nearest configurations whose plan fits into `bytes`: a smaller microbatch (with the same tokens a step),
/// more that is recomputed, moments in bf16, shorter sequences, and some together. Empty where none fits.
std::vector<MemoryAdvice> configurations_that_fit(const RunConfig& config, const ModelConfig& model, int64_t bytes,
                                                  const RankGroups& groups = {});

/// What recomputing more, moments in bf16, freezing the routed experts, and both would bring a plan of `bytes` down
/// to; what makes no difference, or is done already, is left out.
std::vector<MemoryAdvice> what_would_save(const RunConfig& config, const ModelConfig& model, int64_t bytes,
                                          const RankGroups& groups = {});

/// Throws a usage error with the largest arenas and the advice where the engine's plan is larger than `bytes`, what its
/// device has available.
void check_fits(const RunConfig& config, const ModelConfig& model, const TrainingEngine& engine, int64_t bytes,
                const RankGroups& groups = {});

}  // namespace deeptitan
