#pragma once

// What Hopper's backward of attention needs before its products begin.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/cpu/attention/attention.h"

namespace deeptitan::cuda::sm90::attention_backward {

struct DocumentTiles;

/// Lists the documents' tiles of keys, cut at each document's own start, and counts them: an entry a tile, at most one
/// a token. One launch.
void list_attention_tiles(DocumentTiles* tiles, int* tile_count, const int32_t* document_offset, int64_t documents,
                          cudaStream_t stream);

/// statistics [H, T] = (log_sum_exp log2(e), d_out . out); where no document holds a token its gradients become zeros,
/// of the rope key the heads' parts [T, H, 64]. One launch.
void prepare_attention_rows(float2* statistics, bfloat16* d_query, bfloat16* d_key_value, float* d_key_rope,
                            const bfloat16* d_out, const bfloat16* out, const float* log_sum_exp,
                            const cpu::AttentionInputs<bfloat16>& inputs, int64_t tokens, cudaStream_t stream);

}  // namespace deeptitan::cuda::sm90::attention_backward
