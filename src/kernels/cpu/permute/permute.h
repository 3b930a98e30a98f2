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

namespace deeptitan::cpu {

/// Rows that sort_slots needs at most: slots + E * (alignment - 1), or less where fewer experts than E can be
/// non-empty, rounded up to the alignment.
int64_t max_sorted_rows(int64_t slots, int experts, int alignment);

/// Sorts slots by expert, stably: row_of_slot [slots], slot_of_row [row_capacity] (-1 where padding or past the last
/// group) and group_offset [E + 1] (multiples of alignment, group_offset[0] = 0) from expert_index [slots] (0..E-1) and
/// counts [E] (slots of each expert). Throws Error where row_capacity is less than group_offset[E], or where counts are
/// not those of expert_index.
void sort_slots(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, const int32_t* expert_index,
                const int32_t* counts, int64_t slots, int experts, int alignment, int64_t row_capacity);

/// out[r] = x[slot_of_row[r] / K], or zeros where slot_of_row[r] is -1: out [rows, D], x [T, D].
void permute_rows(float* out, const float* x, const int32_t* slot_of_row, int64_t rows, int64_t hidden, int top_k);
void permute_rows(bfloat16* out, const bfloat16* x, const int32_t* slot_of_row, int64_t rows, int64_t hidden,
                  int top_k);

/// out[t] = sum_k weight[t, k] * y[row_of_slot[t, k]] + addend[t], accumulated in fp32 in the order of k, the addend
/// last: out [T, D], y [rows, D], row_of_slot [T, K] (-1: nothing), weight [T, K] (null: ones), addend [T, D] (null:
/// none; may be out itself). With null weights it is the gradient of permute_rows.
void unpermute_rows(float* out, const float* y, const int32_t* row_of_slot, const float* weight, const float* addend,
                    int64_t tokens, int64_t hidden, int top_k);
void unpermute_rows(bfloat16* out, const bfloat16* y, const int32_t* row_of_slot, const float* weight,
                    const bfloat16* addend, int64_t tokens, int64_t hidden, int top_k);

/// The gradient of unpermute_rows: d_y[r] = weight[s] * d_out[s / K] and d_weight[s] = dot(d_out[s / K], y[r]) with
/// s = slot_of_row[r]; rows with s = -1 get zeros. d_y [rows, D], d_weight [T, K] (null: not wanted; a slot without a
/// row is left as it is), d_out [T, D], y [rows, D] (may be null without d_weight), weight [T, K] (null: ones). d_y may
/// be y itself. The dot products are in fp32, in an order that depends on D alone.
void unpermute_rows_backward(float* d_y, float* d_weight, const float* d_out, const float* y,
                             const int32_t* slot_of_row, const float* weight, int64_t rows, int64_t hidden, int top_k);
void unpermute_rows_backward(bfloat16* d_y, float* d_weight, const bfloat16* d_out, const bfloat16* y,
                             const int32_t* slot_of_row, const float* weight, int64_t rows, int64_t hidden, int top_k);

}  // namespace deeptitan::cpu
