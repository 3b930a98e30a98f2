#pragma once

#include <compare>
#include <cstdint>

#include "core/tensor.h"
#include "ops/attention.h"

namespace deeptitan {

/// The extents of a batch, known to the host: what memory is planned for, and the key of a captured graph. Counts that
/// may be smaller are in the layout's tensors. On the CPU a batch is laid out with its capacity as its count.
struct BatchCapacity {
  int64_t tokens = 0;       // T: rows of the batch
  int64_t sequences = 0;    // S
  int64_t max_query = 0;    // rows of one sequence
  int64_t max_visible = 0;  // entries that a row sees, itself included
  int64_t pages = 0;        // of a sequence; 0: no cache
  int64_t few_end = -1;     // rows up to the last sequence of fewer than kExpandedRows rows; -1: it may be any

  auto operator<=>(const BatchCapacity&) const = default;
};

/// One batch of sequences, for packed training, prefill, decode and mixtures of them. All tensors lie on the device.
///
/// Sequence s holds the rows query_offset[s] up to query_offset[s + 1]: its next tokens. They see each other causally
/// and the cached_length[s] tokens before them, whose entries lie in the sequence's pages. A document in training is a
/// sequence with nothing cached; it needs no cache, and cached_length, page_table and cache_slot are undefined. Rows
/// from the last offset on, and sequences without rows, are padding.
struct BatchLayout {
  BatchCapacity capacity;
  int64_t longest_position = 0;  // what dynamic rotary tables are made for: an upper bound of positions + 1
  Tensor token_ids;              // i32 [T]; 0 where padding
  Tensor positions;              // i32 [T], from 0 in each sequence; -1: padding
  Tensor query_offset;           // i32 [S + 1]
  Tensor cached_length;          // i32 [S]
  Tensor page_table;             // i32 [S, pages]
  Tensor cache_slot;             // i32 [T]: where each row's cache entries are written; -1: nowhere
  Tensor logit_rows;             // i32 [rows whose logits are wanted]; undefined where the caller takes hidden states
  Tensor balance_offset;         // i32 [rows of the training batch + 1]: over what experts are balanced

  int64_t tokens() const { return capacity.tokens; }
  bool cached() const { return cache_slot.defined(); }
  Documents documents() const { return {query_offset, capacity.max_query}; }
  CachedSequences sequences() const {
    return {query_offset, cached_length, page_table, capacity.max_query, capacity.max_visible};
  }
};

}  // namespace deeptitan
