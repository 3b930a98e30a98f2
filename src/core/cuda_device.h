#pragma once

#include <cstdint>
#include <string>

#include "core/shared_library.h"

// What the CUDA runtime says of this host's GPUs; compiled only with DT_CUDA.

namespace deeptitan::cuda {

/// The least compute capability, major part, that this build's kernels run on.
inline constexpr int kLeastMajor = 8;

/// How many GPUs there are; where there is none, why.
struct DeviceCount {
  int devices = 0;
  std::string problem;
};
DeviceCount count_devices();

struct DeviceProperties {
  std::string name;
  int major = 0;  // of the compute capability
  int minor = 0;
  int64_t bytes = 0;  // of memory, in all
};
DeviceProperties device_properties(int device);

/// To be called before anything else of CUDA by a process whose GPU will run kernels that wait for those of other
/// processes: such a kernel must hold up no other stream, and none that is loaded later. What the environment says
/// already stays.
void prepare_to_wait_for_others();

/// Which GPU it is, of all hosts: "host-7, 0000:18:00.0".
std::string device_address(int device);

/// The major part of its compute capability; of a GPU that is not here and is planned for, 9.
int capability_major(int device);

/// How many multiprocessors it has.
int multiprocessors(int device);

/// How many threads it holds at once; of a GPU that is not here 0.
int64_t resident_threads(int device);

/// cuBLASLt of this build's CUDA, which the program does not carry; last looked for where the build found CUDA.
const SharedLibrary& cublas_lt_library();

/// Bytes that the device can give now.
int64_t free_bytes(int device);

/// Makes a device the one that this thread's launches and allocations go to.
void use_device(int device);

/// Copies between any two memories after all that was launched before, and waits for it.
void copy(void* to, const void* from, int64_t bytes);

/// Zeroes device memory, likewise.
void clear(void* memory, int64_t bytes);

/// Waits for everything launched on the current device; throws what a kernel left behind.
void synchronize();

}  // namespace deeptitan::cuda
