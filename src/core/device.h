#pragma once

namespace deeptitan {

enum class DeviceKind { kCpu, kCuda };

/// Where a tensor's elements lie: the host's memory, or that of the GPU with this index.
struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

}  // namespace deeptitan
