#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "kernels/cuda/error.h"

/// Leaves the test, saying why, where no CUDA device can be used.
#define DT_SKIP_WITHOUT_GPU()                                                                                      \
  do {                                                                                                             \
    int devices_found = 0;                                                                                         \
    const cudaError_t device_status = cudaGetDeviceCount(&devices_found);                                          \
    if (device_status != cudaSuccess || devices_found == 0) {                                                      \
      (void)cudaGetLastError();                                                                                    \
      GTEST_SKIP() << "needs an NVIDIA GPU: cudaGetDeviceCount says " << cudaGetErrorString(device_status) << ", " \
                   << devices_found << " devices";                                                                 \
    }                                                                                                              \
  } while (false)

namespace deeptitan::cuda {

/// Device memory of a test. Filled with 0xff bytes (NaN, -1) at first, so that an element nobody wrote is seen.
template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t count) : count_(count) {
    DT_CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&data_), bytes() == 0 ? 1 : bytes()));
    DT_CUDA_CHECK(cudaMemset(data_, 0xff, bytes()));
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) { upload(values); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { (void)cudaFree(data_); }

  T* get() { return data_; }
  size_t size() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }

  void upload(const std::vector<T>& values) {
    DT_CUDA_CHECK(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> download() const {
    std::vector<T> values(count_);
    DT_CUDA_CHECK(cudaDeviceSynchronize());
    DT_CUDA_CHECK(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

/// Whether two vectors hold the same bytes (NaN equals the same NaN).
template <typename T>
bool same_bytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace deeptitan::cuda
