#pragma once

#include <cstdint>
#include <type_traits>

namespace deeptitan {

/// What the host says of a step before it begins.
struct StepInput {
  int64_t step = 0;  // from 1
  double learning_rate = 0;
  double target_scale = 1;  // 1 / loss-bearing tokens of the step: what summed losses are scaled by
  double token_scale = 1;   // 1 / tokens of the step: what summed balance losses are scaled by
  double mtp_scale = 0;     // weight of a next-token-prediction loss, times target_scale
};

/// What a step leaves behind. Sums begin at zero in each step; halt and updates stay from step to step.
struct StepOutput {
  double loss_sum = 0;          // nats, over the loss-bearing tokens
  double mtp_loss_sum = 0;      // the same of the next-token-prediction modules, not weighted
  double gradient_squares = 0;  // of the whole gradient, before clipping
  float clip = 1.0f;            // what gradients are multiplied by
  int32_t valid = 1;            // 0: something is not finite, or the run is halted: nothing of this step is applied
  int32_t halt = 0;             // sticky: steps behind one that halted the run do nothing
  int32_t row_overflow = 0;     // rows did not fit where they were dispatched to: the step is run again
  int32_t failed_op = 0;        // the first op of the step that found something wrong; 0: none
  int64_t updates = 0;          // steps that were applied: what AdamW's bias correction counts
};

/// What changes from step to step, where the kernels run: one block, with the same bytes on host and device. `in` is
/// copied there before a step, `out` read after it, so that nothing of it is frozen into a captured graph and no op has
/// to return anything.
struct StepState {
  StepInput in;
  StepOutput out;
};
static_assert(std::is_trivially_copyable_v<StepState> && std::is_standard_layout_v<StepState>);

}  // namespace deeptitan
