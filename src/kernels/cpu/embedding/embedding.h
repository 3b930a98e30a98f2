#pragma once

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cpu {

// Every id must lie in [0, vocab): the caller has checked. Rows are contiguous.

/// The first place t whose ids[t] is not in [0, vocab); `tokens` where there is none.
int64_t first_id_outside(const int32_t* ids, int64_t tokens, int64_t vocab);

/// out[t] = table[ids[t]], rounded where out is bfloat16 and table float. out is [tokens, dim], table [vocab, dim].
void embedding_gather(float* out, const float* table, const int32_t* ids, int64_t tokens, int64_t dim);
void embedding_gather(bfloat16* out, const bfloat16* table, const int32_t* ids, int64_t tokens, int64_t dim);
void embedding_gather(bfloat16* out, const float* table, const int32_t* ids, int64_t tokens, int64_t dim);

/// The backward of embedding_gather: d_table[ids[t]] += d_out[t]. d_table is [vocab, dim] and d_out is [tokens, dim].
/// Deterministic: each element of d_table receives its terms in the order of the tokens, whatever the threads.
void embedding_scatter_add(float* d_table, const float* d_out, const int32_t* ids, int64_t tokens, int64_t dim);
void embedding_scatter_add(float* d_table, const bfloat16* d_out, const int32_t* ids, int64_t tokens, int64_t dim);

}  // namespace deeptitan::cpu
