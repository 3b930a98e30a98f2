#include "kernels/cuda/error.h"

#include <cuda_runtime_api.h>

#include "core/error.h"

namespace deeptitan::cuda {

void check_cuda(int status, const char* call, const char* file, int line) {
  const auto error = static_cast<cudaError_t>(status);
  DT_CHECK(error == cudaSuccess, "{} failed: {} ({}), at {}:{}", call, cudaGetErrorString(error),
           cudaGetErrorName(error), file, line);
}

void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  DT_CHECK(error == cudaSuccess,
           "the launch of {} failed: {} ({}); this build runs on compute capability 8.0 and newer", kernel,
           cudaGetErrorString(error), cudaGetErrorName(error));
}

}  // namespace deeptitan::cuda
