#pragma once

#include <cmath>
#include <cstdint>

#include "core/step_state.h"

// What decides a step's fate, the same source for host and device.

#ifdef __CUDACC__
#define DT_STEP_FUNCTION __host__ __device__ inline
#else
#define DT_STEP_FUNCTION inline
#endif

namespace deeptitan {

DT_STEP_FUNCTION bool is_finite_number(double x) {
  return x - x == 0;
}

/// A new step's output: what is sticky stays.
DT_STEP_FUNCTION void begin_output(StepOutput& out) {
  out.loss_sum = 0;
  out.mtp_loss_sum = 0;
  out.gradient_squares = 0;
  out.clip = 1.0f;
  out.valid = 1;
  out.row_overflow = 0;
  out.failed_op = 0;
}

/// Fills in what follows from the gradient's squares: whether the step is valid, its clipping, and the count of applied
/// updates. A step whose rows overflowed halts those behind it, which would be on other weights than if it had been
/// applied; with `halt` one that is not finite does too.
DT_STEP_FUNCTION void decide_step(StepState& state, double max_norm, bool halt) {
  const StepInput& in = state.in;
  StepOutput& out = state.out;
  const double norm = sqrt(out.gradient_squares);
  const bool finite = is_finite_number(out.loss_sum * in.target_scale) &&
                      is_finite_number(out.mtp_loss_sum * in.target_scale) && is_finite_number(norm);
  out.valid = finite && out.row_overflow == 0 && out.halt == 0 ? 1 : 0;
  if (out.row_overflow != 0 || (halt && out.valid == 0)) out.halt = 1;
  out.clip = max_norm > 0 && norm > max_norm ? static_cast<float>(max_norm / (norm + 1e-6)) : 1.0f;
  out.updates += out.valid;
}

}  // namespace deeptitan
