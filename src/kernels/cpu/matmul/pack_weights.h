#pragma once

#include <cstdint>

#include "kernels/cpu/matmul/packing.h"

namespace deeptitan::cpu {

/// Rows of a weight as they lie in memory: fp32 or bf16 [rows, K], `ld` elements from row to row.
struct WeightRows {
  const void* data;
  int64_t ld;
  int64_t rows;
};

/// A stack of weights W_g [N, K] in the layouts that products want, one group after another.
struct PackedWeights {
  OperandType type;
  int64_t outputs;           // N
  int64_t inputs;            // K
  uint32_t* forward;         // for x W^T: packed_words(K, N) a group; nullptr where not wanted
  uint32_t* backward_input;  // for d_y W: packed_words(N, K) a group; nullptr where not wanted
};

/// Packs `groups` weights. W_g is `pieces_per_group` entries of `pieces` under one another, N rows together. Source is
/// float or bfloat16. Threads share blocks of rows, and both layouts of a block are made while it is in the cache.
template <typename Source>
void pack_weights(const PackedWeights& packed, const WeightRows* pieces, int64_t pieces_per_group, int64_t groups);

}  // namespace deeptitan::cpu
