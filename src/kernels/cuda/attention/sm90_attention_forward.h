#pragma once

// Attention's forward on Hopper, bf16: TMA loads, warpgroup products. As tensor_core_attention.h says it, but that a
// document's bits do not depend on what it is packed with. One thread more than that loads and waits; documents are
// found on the device.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/cpu/attention/attention.h"
#include "kernels/cuda/attention/sm90_attention_tiles.h"

namespace deeptitan::cuda {

/// Whether there is a kernel for heads of nope, rope and value: 128, 64, 128 or 64, 32, 64. The device must be Hopper.
bool sm90_attention_has_head(int64_t nope_dim, int64_t rope_dim, int64_t value_dim);

/// Whether it takes these rows: such heads, rows of whole 16 bytes.
bool sm90_attention_fits(const cpu::AttentionInputs<bfloat16>& inputs);

/// Bytes of workspace.
int64_t sm90_attention_forward_workspace(int64_t tokens, int64_t documents);

/// As cuda::attention_forward (kernels/cuda/attention/attention.h). Two launches.
void sm90_attention_forward(bfloat16* out, float* log_sum_exp, const cpu::AttentionInputs<bfloat16>& inputs,
                            int64_t tokens, void* workspace, cudaStream_t stream);

/// Keys and values of cached entries, expanded: a document's are entries behind one another.
struct EntriesAttention {
  const bfloat16* query = nullptr;     // [tokens, H, Dn + Dr]
  const bfloat16* key = nullptr;       // [entries, H, Dn]
  const bfloat16* value = nullptr;     // [entries, H, Dv]
  const bfloat16* key_rope = nullptr;  // [entries, Dr]
  int64_t entries = 0;
  AttentionRows rows = {};
  int64_t most_visible = 0;  // entries that a row sees at most
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t nope_dim = 0;
  int64_t rope_dim = 0;
  int64_t value_dim = 0;
  float scale = 0;
};

/// out [tokens, H, Dv] in the rows that are meant, the others are left alone; sizes as sm90_attention_fits wants them,
/// the same workspace. Two launches.
void sm90_attention_over_entries(bfloat16* out, const EntriesAttention& in, void* workspace, cudaStream_t stream);

}  // namespace deeptitan::cuda
