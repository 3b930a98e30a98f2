#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/step_state.h"
#include "kernels/cpu/optimizer/adamw.h"

namespace deeptitan::cuda {

/// As cpu::adamw_update, with the same bits; learning rate, clipping and the number of applied updates are those of the
/// step state on the device, and nothing happens where it is not valid. All pointers are device pointers.
/// `rounded`, unless it is null, becomes the new parameter in bf16. Deterministic; one launch.
void adamw_update(float* parameter, float* m, float* v, bfloat16* rounded, const float* gradient, int64_t n,
                  double weight_decay, const cpu::AdamWOptions& options, const StepState* state, cudaStream_t stream);
/// The same with moments in bf16, rounded at random with the bits of the CPU.
void adamw_update(float* parameter, bfloat16* m, bfloat16* v, bfloat16* rounded, const float* gradient, int64_t n,
                  double weight_decay, const cpu::AdamWOptions& options, const RoundingPlace& place,
                  const StepState* state, cudaStream_t stream);

}  // namespace deeptitan::cuda
