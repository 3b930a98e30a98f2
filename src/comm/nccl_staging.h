#pragma once

#include <cstdint>

#include "core/device_memory.h"

namespace deeptitan {

/// Memory of a GPU where what others send is put until it is added up. The groups of a rank share it: what they do is
/// queued in one stream.
struct NcclStaging {
  static constexpr int64_t kBytes = int64_t{64} << 20;
  explicit NcclStaging(Device device) : memory("exchange between ranks", device, MemoryKind::kDevice, kBytes) {}
  MemoryBlock memory;
};

}  // namespace deeptitan
