#pragma once

#include <cstdint>

#include "kernels/cuda/attention/attention.h"

namespace deeptitan::cuda {

/// Which of `count` documents holds the token, document d holding offset[d] up to offset[d + 1]; -1: none.
__device__ inline int64_t find_document(const int32_t* offset, int64_t count, int64_t token) {
  // The last document that begins at or before the token; empty ones lie before it.
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (offset[middle] <= token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low == 0 || token >= offset[low] ? -1 : low - 1;
}

inline constexpr int64_t kPadding = -1;
inline constexpr int64_t kNotMeant = -2;

/// The sequence that holds a token, kPadding or kNotMeant.
__device__ inline int64_t find_sequence(const SequenceRows& rows, int64_t token) {
  // In decoding a sequence has one row, its own number's: looked at first, the search's latencies are saved.
  const bool own = token < rows.sequences && rows.query_offset[token] == token && rows.query_offset[token + 1] > token;
  const int64_t sequence = own ? token : find_document(rows.query_offset, rows.sequences, token);
  if (sequence < 0) return kPadding;
  const int64_t count = rows.query_offset[sequence + 1] - rows.query_offset[sequence];
  return rows.least <= count && count <= rows.most ? sequence : kNotMeant;
}

}  // namespace deeptitan::cuda
