#pragma once

// Received token rows into the order of this rank's experts. R source ranks, e experts of this rank.
//
// Rows arrive in segments, one for each (source rank, expert of this rank), the rank outermost. The expert-ordered
// buffer has the segments of expert 0 from all ranks, padding up to the alignment, the segments of expert 1, and so on.
//
// Example: R = 2, e = 2, alignment 4, counts = {{1, 2}, {2, 0}}. Input rows 0 | 1 2 | 3 4 |:
//   group_size = {3, 2}, group_offset = {0, 4, 8}, input_row = {0, 3, 4, -1, 1, 2, -1, -1}.

#include <cstdint>

#include "kernels/permute_indices_shape.h"

namespace deeptitan::cpu {

/// For each row of the expert-ordered buffer the input row it takes, or -1: input_row [row_capacity] (-1 for padding
/// and past the last group), group_size [e] (true counts) and group_offset [e + 1] (multiples of alignment) from
/// counts [R, e]. Where group_offset[e] exceeds row_capacity, what lies past the capacity is not written; group_offset
/// tells the rows needed. Throws as check_permute_indices_shape. Deterministic.
void permute_indices(int32_t* input_row, int32_t* group_size, int32_t* group_offset, const int32_t* counts,
                     const PermuteIndicesShape& shape);

/// group[r] = the group whose rows group_offset[g] to group_offset[g + 1] - 1 hold r, or -1 past the last one: group
/// [rows], group_offset [groups + 1] (rising from 0; equal neighbours are empty groups, which no row has). With
/// group_size [groups] (may be null), rows of a group past its size are padding and get -1.
void group_of_rows(int32_t* group, const int32_t* group_offset, const int32_t* group_size, int groups, int64_t rows);

/// As group_of_rows, for groups that lie one after another: from group_size [groups] alone.
void group_of_rows_from_sizes(int32_t* group, const int32_t* group_size, int groups, int64_t rows);

}  // namespace deeptitan::cpu
