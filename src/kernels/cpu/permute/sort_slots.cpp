#include <algorithm>
#include <cstdint>

#include "core/error.h"
#include "kernels/cpu/permute/permute.h"
#include "kernels/router_options.h"

namespace deeptitan::cpu {

int64_t max_sorted_rows(int64_t slots, int experts, int alignment) {
  const int64_t padded_groups = std::min<int64_t>(slots, experts);
  const int64_t rows = slots + padded_groups * (alignment - 1);
  return rows / alignment * alignment;
}

void sort_slots(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, const int32_t* expert_index,
                const int32_t* counts, const SlotSortShape& shape) {
  const auto [slots, experts, alignment, row_capacity] = shape;
  DT_CHECK(experts >= 1 && experts <= kMaxExperts, "sort_slots: experts = {}, must be 1 to {}", experts, kMaxExperts);
  DT_CHECK(alignment >= 1, "sort_slots: alignment = {}, must be at least 1", alignment);
  int64_t total = 0;
  int64_t counted = 0;
  group_offset[0] = 0;
  for (int e = 0; e < experts; ++e) {
    counted += counts[e];
    total += (static_cast<int64_t>(counts[e]) + alignment - 1) / alignment * alignment;
    DT_CHECK(
        total <= row_capacity,
        "sort_slots: expert {} ends at row {}, past the capacity of {} rows; max_sorted_rows gives {} for {} slots", e,
        total, row_capacity, max_sorted_rows(slots, experts, alignment), slots);
    group_offset[e + 1] = static_cast<int32_t>(total);
  }
  DT_CHECK(counted == slots, "sort_slots: the counts sum to {} but there are {} slots", counted, slots);
  std::fill(slot_of_row, slot_of_row + row_capacity, -1);

  int32_t next_row[kMaxExperts];
  std::copy(group_offset, group_offset + experts, next_row);
  for (int64_t slot = 0; slot < slots; ++slot) {
    const int32_t expert = expert_index[slot];
    DT_CHECK(expert >= 0 && expert < experts && next_row[expert] < group_offset[expert] + counts[expert],
             "sort_slots: slot {} chose expert {}, which the counts do not have (experts 0 to {})", slot, expert,
             experts - 1);
    const int32_t row = next_row[expert]++;
    row_of_slot[slot] = row;
    slot_of_row[row] = static_cast<int32_t>(slot);
  }
}

void sort_slots_that_fit(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, int32_t* group_size,
                         int32_t* row_overflow, const int32_t* expert_index, const int32_t* counts,
                         const SlotSortShape& shape) {
  int64_t rows = 0;
  for (int e = 0; e < shape.experts; ++e) rows += (counts[e] + shape.alignment - 1) / shape.alignment * shape.alignment;
  if (rows <= shape.row_capacity) {
    std::copy_n(counts, shape.experts, group_size);
    return sort_slots(row_of_slot, slot_of_row, group_offset, expert_index, counts, shape);
  }
  *row_overflow = 1;
  std::fill_n(group_offset, shape.experts + 1, 0);
  std::fill_n(group_size, shape.experts, 0);
  std::fill_n(row_of_slot, shape.slots, -1);
  std::fill_n(slot_of_row, shape.row_capacity, -1);
}

}  // namespace deeptitan::cpu
