#pragma once

#include <cstdint>

namespace deeptitan {

/// Rows in groups, one an expert: group g has the rows first[g] up to first[g] + count[g], the groups one behind the
/// other. What lies between them is padding, which kernels neither read nor write.
struct GroupRows {
  const int32_t* first = nullptr;  // [groups]; a longer array of offsets serves too
  const int32_t* count = nullptr;  // [groups]
  int64_t groups = 0;
};

}  // namespace deeptitan
