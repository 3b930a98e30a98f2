#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace deeptitan {

/// Rows in groups, one an expert, as a dispatcher leaves them: group g has the rows offsets[g] up to offsets[g + 1], of
/// which the first sizes[g] hold tokens and the rest is padding. Counts are on the device; the host knows the room.
struct RowGroups {
  Tensor offsets;         // i32 [G + 1], rising, multiples of the alignment
  Tensor sizes;           // i32 [G]
  int64_t capacity = 0;   // rows of the tensors between dispatch and combine
  int64_t alignment = 1;  // 1: no padding inside
};

}  // namespace deeptitan
