#include <algorithm>
#include <cstdint>
#include <numeric>

#include "kernels/cpu/permute/permute.h"

namespace deeptitan::cpu {

void sort_received_rows(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, int32_t* sizes,
                        int32_t* row_overflow, const int32_t* counts, const ReceivedRowsShape& shape) {
  const auto [ranks, experts, rows] = shape;
  const int64_t came = std::accumulate(counts, counts + ranks * experts, int64_t{0});
  if (came > rows) {
    *row_overflow = 1;
    std::fill(row_of_slot, row_of_slot + rows, -1);
    std::fill(slot_of_row, slot_of_row + rows, -1);
    std::fill(group_offset, group_offset + experts + 1, 0);
    std::fill(sizes, sizes + experts, 0);
    return;
  }
  int64_t total = 0;
  group_offset[0] = 0;
  for (int64_t e = 0; e < experts; ++e) {
    int64_t size = 0;
    for (int64_t w = 0; w < ranks; ++w) size += counts[w * experts + e];
    total += size;
    sizes[e] = static_cast<int32_t>(size);
    group_offset[e + 1] = static_cast<int32_t>(total);
  }
  std::fill(row_of_slot + total, row_of_slot + rows, -1);
  std::fill(slot_of_row + total, slot_of_row + rows, -1);
  for (int64_t e = 0; e < experts; ++e) {
    int32_t row = group_offset[e];
    int32_t slot = 0;  // the first of this rank and expert, as they came
    for (int64_t w = 0; w < ranks; ++w) {
      const int32_t* of_rank = counts + w * experts;
      for (int64_t before = 0; before < e; ++before) slot += of_rank[before];
      for (int32_t i = 0; i < of_rank[e]; ++i, ++row, ++slot) {
        row_of_slot[slot] = row;
        slot_of_row[row] = slot;
      }
      for (int64_t behind = e + 1; behind < experts; ++behind) slot += of_rank[behind];
    }
  }
}

}  // namespace deeptitan::cpu
