#include "core/cuda_memory.h"

#include <cstring>

#include "core/cuda_check.h"

namespace deeptitan::cuda {
namespace {

void check(cudaError_t status, const std::string& owner, const char* kind, int device, int64_t bytes) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // what is reported here is not to be found again by the next launch
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  cudaMemGetInfo(&free_bytes, &total_bytes);
  fail("the {} arena needs {} bytes of {} memory on cuda:{}, which has {} of {} bytes free: {}", owner, bytes, kind,
       device, free_bytes, total_bytes, cudaGetErrorString(status));
}

}  // namespace

void* allocate(const std::string& owner, int device, int64_t bytes) {
  const CurrentDevice current(device);
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), owner, "device", device, bytes);
  check(cudaMemset(memory, 0, bytes), owner, "device", device, bytes);
  // The clearing runs on the default stream, which other streams do not wait for.
  check(cudaDeviceSynchronize(), owner, "device", device, bytes);
  return memory;
}

void free(int device, void* memory) {
  int before = 0;
  cudaGetDevice(&before);
  cudaSetDevice(device);
  cudaFree(memory);
  cudaSetDevice(before);
}

void* allocate_pinned(const std::string& owner, int device, int64_t bytes) {
  const CurrentDevice current(device);
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable), owner, "pinned host", device, bytes);
  std::memset(memory, 0, bytes);
  return memory;
}

void free_pinned(void* memory) {
  cudaFreeHost(memory);
}

}  // namespace deeptitan::cuda
