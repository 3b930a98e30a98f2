#pragma once

#include <string>

namespace deeptitan {

enum class DeviceKind { kCpu, kCuda };

/// Where a tensor's elements lie: the host's memory, or that of the GPU with this index.
struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

/// "cpu", "cuda:0", ..., as on the command line.
std::string device_name(Device device);

/// Throws a usage error: a CUDA device was asked for `what`, and this build has no CUDA.
[[noreturn]] void fail_without_cuda(const std::string& what, Device device);

}  // namespace deeptitan
