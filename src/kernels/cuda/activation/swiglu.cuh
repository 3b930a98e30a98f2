#pragma once

namespace deeptitan::cuda {

__device__ inline float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

/// SwiGLU of one element, before it is rounded.
__device__ inline float swiglu(float gate, float up) {
  return gate * sigmoid(gate) * up;
}

}  // namespace deeptitan::cuda
