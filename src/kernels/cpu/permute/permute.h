#pragma once

// Token rows into the order of their experts and back, where the experts are on this rank. T tokens, D hidden,
// E experts, K experts a token. A slot is one choice of one token, t * K + k. A row is a place in the expert-ordered
// buffer: expert e owns the rows group_offset[e] to group_offset[e + 1] - 1, its tokens first, then padding up to the
// alignment.
//
// Example: T = 3, K = 1, E = 2, alignment 2, expert_index = {1, 0, 1}:
//   group_offset = {0, 2, 4}, slot_of_row = {1, -1, 0, 2}, row_of_slot = {2, 0, 3}.
//
// Everything is deterministic: slots keep their order within an expert, sums run in the order of the slots, and no
// result depends on the number of threads.

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/row_map.h"

namespace deeptitan::cpu {

/// Rows that sort_slots needs at most: every non-empty expert may need alignment - 1 rows of padding.
int64_t max_sorted_rows(int64_t slots, int experts, int alignment);

/// Sorts slots by expert, stably: row_of_slot [slots], slot_of_row [row_capacity] (-1 where padding or past the last
/// group) and group_offset [E + 1] (multiples of alignment, group_offset[0] = 0) from expert_index [slots] (0..E-1) and
/// counts [E] (slots of each expert). Throws Error where row_capacity is less than group_offset[E], or where counts are
/// not those of expert_index.
void sort_slots(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, const int32_t* expert_index,
                const int32_t* counts, const SlotSortShape& shape);

/// sort_slots where the rows may be more than row_capacity: then nothing has a row. group_offset and group_size [E] are
/// 0, row_of_slot and slot_of_row -1, and *row_overflow 1. Else group_size = counts, and *row_overflow stays.
void sort_slots_that_fit(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, int32_t* group_size,
                         int32_t* row_overflow, const int32_t* expert_index, const int32_t* counts,
                         const SlotSortShape& shape);

/// Sorts rows by expert, stably, that came rank by rank and of each rank expert by expert, counts [W, e] of them:
/// row_of_slot [rows] and slot_of_row [rows] (a slot is a row's place as it came; -1 behind the last), group_offset
/// [e + 1] and sizes [e]. Where more came than there is room for nothing has a row: group_offset and sizes are 0,
/// row_of_slot and slot_of_row -1, and *row_overflow 1. Else *row_overflow stays.
///
/// Example: W = 2, e = 2, counts = {1, 2, 2, 0}: row_of_slot = {0, 3, 4, 1, 2}, group_offset = {0, 3, 5}.
void sort_received_rows(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, int32_t* sizes,
                        int32_t* row_overflow, const int32_t* counts, const ReceivedRowsShape& shape);

/// out[map.row_of_slot[t, k]] = x[t] for all k, and zeros where map.slot_of_row is -1: out [rows, D], x [T, D].
void permute_rows(float* out, const float* x, const RowMap& map, int64_t hidden);
void permute_rows(bfloat16* out, const bfloat16* x, const RowMap& map, int64_t hidden);

/// out[t] = sum_k weight[t, k] * y[row_of_slot[t, k]] + addend[t], accumulated in fp32 in the order of k, the addend
/// last: out [T, D], y [rows, D], weight [T, K] (null: ones), addend [T, D] (null: none; may be out itself). With a
/// residual [T, D] (null: none) that is rounded, and out[t] = residual[t] + it. Reads map.row_of_slot alone. With null
/// weights it is the gradient of permute_rows.
void unpermute_rows(float* out, const float* y, const float* weight, const float* addend, const float* residual,
                    const RowMap& map, int64_t hidden);
void unpermute_rows(bfloat16* out, const bfloat16* y, const float* weight, const bfloat16* addend,
                    const bfloat16* residual, const RowMap& map, int64_t hidden);

/// The gradient of unpermute_rows: d_y[r] = weight[t, k] * d_out[t] and d_weight[t, k] = dot(d_out[t], y[r]) with
/// r = row_of_slot[t, k]; a slot without a row has d_weight 0, padding rows of d_y are zeros. d_y [rows, D], d_weight
/// [T, K] (null: not wanted), d_out [T, D], y [rows, D] (may be null without d_weight), weight [T, K] (null: ones). d_y
/// may be y itself. The dot products are in fp32, in an order that depends on D alone.
void unpermute_rows_backward(float* d_y, float* d_weight, const float* d_out, const float* y, const float* weight,
                             const RowMap& map, int64_t hidden);
void unpermute_rows_backward(bfloat16* d_y, float* d_weight, const bfloat16* d_out, const bfloat16* y,
                             const float* weight, const RowMap& map, int64_t hidden);

}  // namespace deeptitan::cpu
