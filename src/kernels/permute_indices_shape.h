#pragma once

#include <cstdint>

namespace deeptitan {

/// The sizes of permute_indices. source_ranks * local_experts must not exceed kMaxSegments.
struct PermuteIndicesShape {
  int source_ranks = 1;      // R
  int local_experts = 0;     // e, experts of this rank
  int alignment = 1;         // of each expert's first row
  int64_t row_capacity = 0;  // rows that the outputs hold
};

inline constexpr int kMaxSegments = 8192;

/// Throws Error naming the size that is out of range.
void check_permute_indices_shape(const PermuteIndicesShape& shape);

}  // namespace deeptitan
