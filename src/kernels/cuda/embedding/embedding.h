#pragma once

// Rows of the embedding's table on the GPU; kernels/cpu/embedding/embedding.h says what each function computes, and
// these give the same bits. All pointers are device pointers. Deterministic; nothing is allocated, waited for or read
// back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cuda {

/// out[t] = table[ids[t]], rounded where out is bfloat16 and table float. An id outside the table cannot be reported
/// from here: its row becomes NaN, which the loss shows.
void embedding_gather(float* out, const float* table, const int32_t* ids, int64_t tokens, int64_t vocab, int64_t dim,
                      cudaStream_t stream);
void embedding_gather(bfloat16* out, const bfloat16* table, const int32_t* ids, int64_t tokens, int64_t vocab,
                      int64_t dim, cudaStream_t stream);
void embedding_gather(bfloat16* out, const float* table, const int32_t* ids, int64_t tokens, int64_t vocab, int64_t dim,
                      cudaStream_t stream);

/// d_table[ids[t]] += d_out[t], each row in the order of the tokens; ids outside the table add to nothing. The first
/// token of each id looks for the others, so the ids are read tokens / 2 times.
void embedding_scatter_add(float* d_table, const float* d_out, const int32_t* ids, int64_t tokens, int64_t vocab,
                           int64_t dim, cudaStream_t stream);
void embedding_scatter_add(float* d_table, const bfloat16* d_out, const int32_t* ids, int64_t tokens, int64_t vocab,
                           int64_t dim, cudaStream_t stream);

}  // namespace deeptitan::cuda
