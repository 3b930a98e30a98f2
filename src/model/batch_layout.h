#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "ops/attention.h"

namespace deeptitan {

/// One batch of tokens, for packed training, prefill, decode and mixtures of them. T tokens.
///
/// The first `fresh_tokens` tokens form documents that start in this batch: they attend among themselves. The others
/// continue sequences whose earlier tokens are in the cache: they attend through it.
struct BatchLayout {
  int64_t tokens = 0;
  int64_t fresh_tokens = 0;
  int64_t longest_position = 0;  // an upper bound of positions + 1
  Tensor token_ids;              // i32 [T]
  Tensor positions;              // i32 [T], from 0 in each document
  Documents documents;           // of the fresh tokens
  Tensor sequence_offset;        // i32 [sequences + 1]: rows of the training batch, over which experts are balanced
  Tensor cache_slot;             // i32 [T]: where each token's cache entries are written; undefined: no cache
  CachedEntries cached;          // of the other tokens
};

}  // namespace deeptitan
