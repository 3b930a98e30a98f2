#pragma once

#include <cuda_runtime.h>

#include "core/error.h"

namespace deeptitan::cuda {

/// Throws, saying what was being done, unless a call of the CUDA runtime succeeded.
inline void check_cuda(cudaError_t status, const char* doing) {
  if (status == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // what is reported here is not to be found again by the next launch
  fail("CUDA: {}: {}", doing, cudaGetErrorString(status));
}

/// Makes a device current for a scope.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    check_cuda(cudaGetDevice(&before_), "looking for a GPU");
    const cudaError_t status = cudaSetDevice(device);
    DT_CHECK(status == cudaSuccess, "cuda:{} cannot be used: {}", device, cudaGetErrorString(status));
  }
  ~CurrentDevice() { cudaSetDevice(before_); }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
};

}  // namespace deeptitan::cuda
