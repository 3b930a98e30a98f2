#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/float8.h"

namespace deeptitan::benchmark {

// Operands for timing, written on the device. The values decide how much power a product draws, so they are spread as
// quantised activations and weights are.
/// e4m3 of 100 x normal: the range that a scale of amax / 448 leaves.
void fill_normal_e4m3(float8_e4m3* out, int64_t count, uint64_t seed, cudaStream_t stream);
/// fp32 between 0.005 and 0.015, as scales are.
void fill_scales(float* out, int64_t count, uint64_t seed, cudaStream_t stream);

}  // namespace deeptitan::benchmark
