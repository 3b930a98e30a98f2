#pragma once

#include <cstdint>
#include <vector>

namespace deeptitan {

/// Memory that is in use from one point of time to another, both included.
struct TimedPiece {
  int64_t size = 0;
  int64_t first = 0;
  int64_t last = 0;
};

/// Where pieces lie that share memory while they are not in use together, and how much that takes: each at the first
/// place that is free all its time, those that begin first first.
struct SharedPieces {
  std::vector<int64_t> offsets;  // multiples of the alignment
  int64_t size = 0;
};
SharedPieces share_memory(const std::vector<TimedPiece>& pieces, int64_t alignment);

}  // namespace deeptitan
