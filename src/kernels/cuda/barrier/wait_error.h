#pragma once

#include <cstdint>
#include <string>

#include "core/bfloat16.h"

// No CUDA header here: host code without nvcc may include this file.

namespace deeptitan::cuda {

/// What a kernel was waiting for, or found, when it gave up.
enum class WaitKind : uint32_t {
  kNone = 0,
  kBarrier = 1,        // the peer's arrival at a barrier
  kSplits = 2,         // the peer's splits of an all-to-all
  kRows = 3,           // rows that the peer had announced
  kRelease = 4,        // the peer's word that it has read this rank's rows
  kInvalidSplits = 5,  // not a wait: this rank's own splits towards the peer are negative or add up to 2^31 or more
};

/// The content of an error word.
struct WaitError {
  WaitKind kind;
  int32_t rank;    // who waited
  int32_t peer;    // for whom
  uint32_t epoch;  // in which barrier or exchange, counted from 1 since the signals were zeroed
};

/// One 64-bit word, so that a single compare-and-swap records the first error whole: kind in bits 60 to 63, rank in
/// 46 to 59, peer in 32 to 45, epoch in 0 to 31. Zero means that no wait has failed.
DT_HOST_DEVICE inline uint64_t encode_wait_error(const WaitError& error) {
  return static_cast<uint64_t>(error.kind) << 60 | static_cast<uint64_t>(error.rank & 0x3fff) << 46 |
         static_cast<uint64_t>(error.peer & 0x3fff) << 32 | error.epoch;
}

/// The inverse of encode_wait_error.
inline WaitError decode_wait_error(uint64_t word) {
  return {static_cast<WaitKind>(word >> 60), static_cast<int32_t>(word >> 46 & 0x3fff),
          static_cast<int32_t>(word >> 32 & 0x3fff), static_cast<uint32_t>(word)};
}

/// What happened, who waited for whom and what to do, for a word other than zero.
std::string describe_wait_error(uint64_t word, int64_t timeout_ns);

/// Throws Error with describe_wait_error(word, timeout_ns) unless `word` is zero.
void check_wait_error(uint64_t word, int64_t timeout_ns);

}  // namespace deeptitan::cuda
