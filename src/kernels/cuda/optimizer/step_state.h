#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/step_state.h"

// What begins and ends a step, where its state lies: kernels/step_math.h says what is decided. All pointers are device
// pointers. Deterministic; nothing is allocated, waited for or read back.

namespace deeptitan::cuda {

/// Begins a step's output: sums are zero and it is valid; what is sticky stays. One launch.
void begin_step_output(StepState* state, cudaStream_t stream);

/// Adds up the squares of all parameters from their blocks' sums [parameters, 256], which it changes, as
/// cpu::add_square_sums does and with its bits, then decides the step. Two launches.
void finish_gradient(StepState* state, double* sums, int64_t parameters, double max_norm, bool halt,
                     cudaStream_t stream);

}  // namespace deeptitan::cuda
