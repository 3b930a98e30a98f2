#pragma once

#include <algorithm>
#include <cstdint>

namespace deeptitan {

/// Partial sums that a parameter's squares are added up in.
inline constexpr int64_t kSquareBlocks = 256;

/// Elements of each of them, for a parameter of `whole` elements: whole pages, so that threads meet between them.
inline int64_t square_block_elements(int64_t whole) {
  constexpr int64_t kGrain = 1024;
  return std::max<int64_t>(1, ((whole + kSquareBlocks - 1) / kSquareBlocks + kGrain - 1) / kGrain) * kGrain;
}

}  // namespace deeptitan
