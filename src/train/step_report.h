#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/device.h"
#include "core/device_memory.h"
#include "core/step_state.h"
#include "core/stream.h"
#include "model/step_statistics.h"
#include "train/metrics_record.h"

namespace deeptitan {

/// What the host is told of a step.
struct StepResult {
  int64_t step = 0;
  double loss = 0;           // nats per loss-bearing token
  double mtp_loss = 0;       // the same of the next-token-prediction module; 0 without
  double gradient_norm = 0;  // before clipping
  bool finite = true;        // false: the step changed nothing
  int row_overflows = 0;     // 1: rows did not fit, so that the step was run again with the experts in slices
  std::vector<MoeLayerMetrics> moe_layers;
};

/// What is copied to the host at the end of a step, in pinned memory: nothing waits for a copy.
struct StepReport {
  StepReport(Device device, int64_t layers);

  /// Queues the copies behind the step; `copied` says when they are there.
  void copy(const Stream& stream, const StepOutput* on_device, const StepStatistics& statistics);
  /// What they say, once they are there, where `expert_layers` of `experts` experts each have statistics.
  StepResult result(std::span<const int64_t> expert_layers, int64_t experts, double auxiliary_weight) const;

  StepInput input;
  double tokens = 0;  // of the step
  MemoryBlock memory;
  StepOutput* output;
  double* balance_losses;  // of each layer
  double* load_summaries;  // [layers, kLoadSummaryNumbers]
  Event copied;
};

}  // namespace deeptitan
