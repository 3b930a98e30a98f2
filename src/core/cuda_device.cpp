#include "core/cuda_device.h"

#include <cstdlib>

#include <cublas_api.h>
#include <cuda_runtime.h>
#include <unistd.h>

#include "core/error.h"

namespace deeptitan::cuda {
namespace {

// 13000 as "13.0".
std::string version_name(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // what is reported here is not to be found again by the next launch
  fail("{} failed: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

}  // namespace

DeviceCount count_devices() {
  DeviceCount result;
  const cudaError_t status = cudaGetDeviceCount(&result.devices);
  if (status == cudaSuccess && result.devices > 0) return result;
  cudaGetLastError();
  result.devices = 0;
  int driver = 0;
  cudaDriverGetVersion(&driver);
  if (driver == 0) {
    result.problem = "no NVIDIA driver was found";
  } else if (status == cudaErrorInsufficientDriver) {
    result.problem = fmt::format("the NVIDIA driver is for CUDA {}, and this build needs one for {} or newer",
                                 version_name(driver), version_name(CUDART_VERSION));
  } else if (status == cudaSuccess || status == cudaErrorNoDevice) {
    result.problem = "no GPU is visible (see nvidia-smi and CUDA_VISIBLE_DEVICES)";
  } else {
    result.problem = fmt::format("CUDA cannot start: {}", cudaGetErrorString(status));
  }
  return result;
}

DeviceProperties device_properties(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  return {properties.name, properties.major, properties.minor, static_cast<int64_t>(properties.totalGlobalMem)};
}

void prepare_to_wait_for_others() {
  ::setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);  // queues, which else several streams share
  ::setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0);
}

std::string device_address(int device) {
  char bus[64] = "", host[256] = "";
  check(cudaDeviceGetPCIBusId(bus, sizeof bus, device), "cudaDeviceGetPCIBusId");
  ::gethostname(host, sizeof host - 1);
  return fmt::format("{}, {}", host, bus);
}

int capability_major(int device) {
  return device < count_devices().devices ? device_properties(device).major : 9;
}

int multiprocessors(int device) {
  int count = 0;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

int64_t resident_threads(int device) {
  if (device >= count_devices().devices) return 0;
  int threads = 0;
  check(cudaDeviceGetAttribute(&threads, cudaDevAttrMaxThreadsPerMultiProcessor, device), "cudaDeviceGetAttribute");
  return static_cast<int64_t>(multiprocessors(device)) * threads;
}

const SharedLibrary& cublas_lt_library() {
  static const SharedLibrary library(fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR), DT_CUDA_LIBRARIES);
  return library;
}

int64_t free_bytes(int device) {
  use_device(device);
  size_t free = 0;
  size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return static_cast<int64_t>(free);
}

void use_device(int device) {
  check(cudaSetDevice(device), "cudaSetDevice");
}

// Streams that were made not to wait for the default one are waited for, and do not begin before the end of this.
void copy(void* to, const void* from, int64_t bytes) {
  synchronize();
  check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "a copy to or from the GPU");
  synchronize();
}

void clear(void* memory, int64_t bytes) {
  synchronize();
  check(cudaMemset(memory, 0, bytes), "clearing the GPU's memory");
  synchronize();
}

void synchronize() {
  check(cudaDeviceSynchronize(), "work on the GPU");
}

}  // namespace deeptitan::cuda
