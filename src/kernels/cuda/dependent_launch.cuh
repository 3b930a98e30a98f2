#pragma once

// Programmatic dependent launch: a kernel's blocks may begin while the last ones of the launch before it still run, and
// fetch what that launch does not write (weights), so that neither the launch nor the first latency of memory is waited
// for. Compute capability 9.0 on; elsewhere launches follow one another as usual.
//
// A kernel that is launched so calls wait_for_launch_before in every thread, before it reads or writes anything that a
// launch before it writes or reads; and it reads activations by ordinary loads, not through the read-only path. What it
// reads before that (weights) must not be written by the launch just before it.

#include <cuda_runtime.h>

#include "kernels/cuda/error.h"

namespace deeptitan::cuda {

/// Lets the next launch begin as soon as all blocks of this one have come here.
__device__ __forceinline__ void let_next_launch_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Waits until all launches before this one are done, and what they wrote is seen.
__device__ __forceinline__ void wait_for_launch_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// 16 bytes of a weight that are read once: from the second-level cache or beyond.
__device__ __forceinline__ uint4 load_weight(const void* from) {
  return __ldcg(static_cast<const uint4*>(from));
}

inline bool launches_can_depend() {
  static const bool can = [] {
    int device = 0, major = 0;
    DT_CUDA_CHECK(cudaGetDevice(&device));
    DT_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    return major >= 9;
  }();
  return can;
}

/// kernel<<<grid, threads, shared_bytes, stream>>>(arguments...), which may begin before the launch before it ends.
template <typename... Parameters, typename... Arguments>
void launch_dependent(void (*kernel)(Parameters...), const char* name, dim3 grid, dim3 threads, int shared_bytes,
                      cudaStream_t stream, Arguments... arguments) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = threads;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = launches_can_depend() ? 1 : 0;
  DT_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
  check_launch(name);
}

}  // namespace deeptitan::cuda
