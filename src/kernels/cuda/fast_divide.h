#pragma once

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cuda {

/// Division of numbers below 2^31 by a divisor known before the launch, as one multiplication and one shift
/// (Granlund and Montgomery 1994).
class FastDivide {
 public:
  explicit FastDivide(uint32_t divisor) : divisor_(divisor) {
    while ((uint64_t{1} << shift_) < divisor) ++shift_;
    multiplier_ = static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift_) - divisor)) / divisor + 1);
  }

  DT_HOST_DEVICE uint32_t divide(uint32_t n) const {
#if defined(__CUDA_ARCH__)
    const uint32_t high = __umulhi(n, multiplier_);
#else
    const uint32_t high = static_cast<uint32_t>((static_cast<uint64_t>(n) * multiplier_) >> 32);
#endif
    return (high + n) >> shift_;
  }
  DT_HOST_DEVICE uint32_t divisor() const {
    return divisor_;
  }

 private:
  uint32_t divisor_;
  uint32_t multiplier_ = 0;
  uint32_t shift_ = 0;
};

}  // namespace deeptitan::cuda
