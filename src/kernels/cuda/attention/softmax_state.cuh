#pragma once

// A softmax that one warp runs over keys in their order, keeping a weighted sum of their values.

#include <cstdint>

#include "kernels/cuda/warp.cuh"

namespace deeptitan::cuda {

/// a . b over n elements, by a warp; the same in every lane. a is in shared memory.
template <typename T>
__device__ float warp_dot(const float* a, const T* b, int64_t n, int lane) {
  float sum = 0;
  for (int64_t j = lane; j < n; j += kWarp) sum = exact_fma(a[j], to_float(b[j]), sum);
  return sum;
}

/// The largest score so far, the sum of exponentials relative to it, and (in shared memory, lane l its elements l,
/// l + 32, ...) the sum of the values weighted by these.
struct SoftmaxState {
  float max = -INFINITY;
  float sum = 0;

  template <typename T>
  __device__ void add(float score, const T* value, float* weighted, int64_t width, int lane) {
    const float new_max = score > max || score != score ? score : max;
    const float correction = max == new_max ? 1.0f : expf(max - new_max);
    const float weight = expf(score - new_max);
    max = new_max;
    sum = exact_fma(sum, correction, weight);
    for (int64_t j = lane; j < width; j += kWarp) {
      weighted[j] = exact_fma(weight, to_float(value[j]), exact_mul(weighted[j], correction));
    }
  }
};

}  // namespace deeptitan::cuda
