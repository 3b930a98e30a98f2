#pragma once

#include <cstdint>

#include "kernels/cuda/warp.cuh"
#include "kernels/row_map.h"

namespace deeptitan::cuda {

/// Rows whose slot a block of for_each_padding_row looks at.
inline constexpr int kPaddingRowsOfBlock = 64;

inline int64_t padding_blocks(const RowMap& map) {
  return (map.rows + kPaddingRowsOfBlock - 1) / kPaddingRowsOfBlock;
}

/// Calls clear(row) for those of the rows block * 64 to block * 64 + 63 that no slot has. The whole thread block calls
/// it, and all of its threads call clear with the same rows.
template <typename Clear>
__device__ void for_each_padding_row(const RowMap& map, int64_t block, const Clear& clear) {
#pragma unroll
  for (int part = 0; part < kPaddingRowsOfBlock; part += kWarp) {
    const int64_t first = block * kPaddingRowsOfBlock + part;
    const int64_t row = first + threadIdx.x % kWarp;
    uint32_t padding = __ballot_sync(kAllLanes, row < map.rows && map.slot_of_row[min(row, map.rows - 1)] < 0);
    for (; padding != 0; padding &= padding - 1) clear(first + __ffs(padding) - 1);
  }
}

}  // namespace deeptitan::cuda
