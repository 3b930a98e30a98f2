#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cpu/optimizer/adamw.h"

namespace deeptitan::cuda {

/// As cpu::adamw_update, with the same bits. All pointers are device pointers. Deterministic; one launch.
void adamw_update(float* parameter, float* m, float* v, const float* gradient, int64_t n, double learning_rate,
                  double weight_decay, float gradient_scale, int64_t step, const cpu::AdamWOptions& options,
                  cudaStream_t stream);

}  // namespace deeptitan::cuda
