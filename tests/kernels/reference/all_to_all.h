#pragma once

#include <cstdint>
#include <span>

namespace deeptitan::cpu {

/// One rank's part of an all-to-all among ranks of one address space. R ranks, G groups per rank.
template <typename Split>
struct AllToAllRank {
  const void* input;      // this rank's rows by destination rank
  const Split* splits;    // [R, G] rows that it sends, by destination rank and that rank's group
  void* output;           // [capacity_rows, row_bytes] rows that it receives, by source rank
  Split* output_splits;   // [R, G] by source rank and this rank's group
  int64_t capacity_rows;  // rows that output holds
};

/// What an exchange found, the same for all ranks.
struct AllToAllResult {
  bool overflowed;        // some rank's output was too small: nothing moved, and all output_splits are zero
  int32_t overflow_rank;  // of those ranks the one that needs most rows (the lowest such), or -1
  int64_t rows_needed;    // and the rows it needs, or 0
};

/// For each rank r:  output_r = concat over p of rows_p[first(p, r) : first(p, r) + n(p, r)], where
/// n(p, q) = sum over g of splits_p[q, g] and first(p, r) = sum over q < r of n(p, q);  output_splits_r[p, g] =
/// splits_p[r, g]. The gradient is the same call on the outputs' gradients with output_splits as splits. The meaning of
/// cuda::all_to_all_v, row for row. Throws Error for a negative split.
AllToAllResult all_to_all_v(std::span<const AllToAllRank<int32_t>> ranks, int n_groups, int64_t row_bytes);
AllToAllResult all_to_all_v(std::span<const AllToAllRank<int64_t>> ranks, int n_groups, int64_t row_bytes);

}  // namespace deeptitan::cpu
