#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "kernels/group_rows.h"

namespace deeptitan {

/// Rows in groups, one an expert, as a dispatcher leaves them: group g has the rows offsets[g] up to offsets[g + 1], of
/// which the first sizes[g] hold tokens and the rest is padding. Counts are on the device; the host knows the room. The
/// ops between dispatch and combine neither read nor write padding.
struct RowGroups {
  Tensor offsets;         // i32 [G + 1], rising, multiples of the alignment
  Tensor sizes;           // i32 [G]
  int64_t capacity = 0;   // rows of the tensors between dispatch and combine
  int64_t alignment = 1;  // 1: no padding inside

  bool defined() const { return offsets.defined(); }
  int64_t groups() const { return sizes.size(0); }
};

/// Throws unless there are `groups` of them (-1: any number) over tensors of `rows` rows.
void check_row_groups(const char* op, const RowGroups& groups, int64_t expected_groups, int64_t rows);

/// As kernels take them; {} where there are none.
GroupRows group_rows(const RowGroups& groups);

}  // namespace deeptitan
