#include "comm/window_pointers.h"

#include <nccl_device.h>

#include "kernels/cuda/error.h"

namespace deeptitan {
namespace {

__global__ void write_window_pointers_kernel(char** bases, ncclWindow_t window, int n_ranks) {
  for (int p = static_cast<int>(threadIdx.x); p < n_ranks; p += static_cast<int>(blockDim.x)) {
    bases[p] = static_cast<char*>(ncclGetLsaPointer(window, 0, p));
  }
}

}  // namespace

void read_window_pointers(ncclWindow_t window, int n_ranks, char** bases) {
  char** mapped = nullptr;
  DT_CUDA_CHECK(cudaHostAlloc(reinterpret_cast<void**>(&mapped), n_ranks * sizeof(char*), cudaHostAllocMapped));
  write_window_pointers_kernel<<<1, 128>>>(mapped, window, n_ranks);
  const cudaError_t launched = cudaGetLastError();
  const cudaError_t finished = cudaDeviceSynchronize();
  for (int p = 0; p < n_ranks; ++p) bases[p] = mapped[p];
  (void)cudaFreeHost(mapped);
  DT_CUDA_CHECK(launched);
  DT_CUDA_CHECK(finished);
}

}  // namespace deeptitan
