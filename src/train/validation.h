#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "data/validation_batches.h"
#include "train/metrics_record.h"
#include "train/run_ranks.h"
#include "train/training_engine.h"

namespace deeptitan {

/// The loss of every source's held-out text, and of all together, into `metrics`; nothing where no text is held out.
/// The ranks call it together, and each takes its part of every round of batches of `sequences` sequences. A loss that
/// is not finite throws Error on all of them, after `before_stop`, which may exchange something.
void validate(std::vector<ValidationBatches>& sources, int64_t sequences, const RunRanks& ranks, TrainingEngine& engine,
              StepMetrics& metrics, const std::function<void()>& before_stop);

}  // namespace deeptitan
