// One pass over tiles of 128 keys of one head. A block keeps the gradients of a tile's keys and values in registers and
// goes over the tiles of 64 queries that see it, the youngest first:
//
//   S^T = K Q^T; P^T = exp(S^T - log_sum_exp); dP^T = V dO^T; dS^T = P^T (dP^T - delta)
//   dV += P^T dO; dK += dS^T Q; dQ = dS K
//
// Two warpgroups take 64 keys each and half of the columns of dQ; a third one loads, and adds dQ to the sums in
// workspace. The tiles of keys that a tile of queries sees add in their order, oldest first, each waiting for the one
// before it; the last one, on the diagonal, does not add but reads the sum and writes the gradient. Tiles are handed
// out by a counter, oldest first: whom a block waits for has begun before it, and whoever began earlier is ahead on the
// same path from the youngest queries on.

#include "kernels/cuda/attention/attention_parts.h"
#include "kernels/cuda/attention/sm90_attention_backward.h"
#include "kernels/cuda/attention/sm90_attention_backward_compute.cuh"
#include "kernels/cuda/attention/sm90_attention_backward_load.cuh"
#include "kernels/cuda/attention/sm90_attention_backward_prepare.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/grouped_gemm/tensor_map.h"

namespace deeptitan::cuda {
namespace sm90::attention_backward {
namespace {

__global__ void __launch_bounds__(kThreads, 1)
    sm90_attention_backward_kernel(const __grid_constant__ AttentionBackwardParameters p) {
  extern __shared__ __align__(1024) char memory[];
  const AttentionShared shared{shared_address(memory)};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < AttentionShared::kStages; ++i) {
      mbarrier_init(shared.full(i), 1 + 32);       // the loader, and every lane that stores statistics
      mbarrier_init(shared.empty(i), kConsumers);  // every lane has read some
    }
    for (int i = 0; i < AttentionShared::kWorkSlots; ++i) {
      mbarrier_init(shared.work_full(i), 1);
      mbarrier_init(shared.work_empty(i), kConsumerWarps + 2);
    }
    mbarrier_init(shared.keys_full(), 1);
    mbarrier_init(shared.keys_empty(), kConsumerWarps);
    mbarrier_init(shared.d_score_empty(), kConsumerWarps);
    mbarrier_init(shared.sum_full(), kConsumerWarps);
    mbarrier_init(shared.sum_empty(), 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  if (warp >= kConsumerWarps) {
    decrease_registers<kProducerRegisters>();
    if (warp == kConsumerWarps && lane == 0) load_tiles(p, shared);
    if (warp == kConsumerWarps + 1) add_query_gradients(p, shared, lane);
    if (warp == kConsumerWarps + 2) load_statistics(p, shared, lane);
  } else {
    increase_registers<kConsumerRegisters>();
    consume(p, shared, {warp / 4, warp % 4, lane});
  }
}

/// A map of [tokens, width] whose boxes are `rows` tokens of `blocks` blocks of `block` columns, swizzled.
CUtensorMap token_map(const bfloat16* data, int64_t width, int64_t stride, int64_t tokens, int rows, int block,
                      int blocks) {
  return make_tensor_map(data, {.type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                                .element_bytes = 2,
                                .width = width,
                                .height = tokens,
                                .depth = 1,
                                .row_stride = stride,
                                .box_width = block,
                                .box_height = rows,
                                .box_blocks = blocks,
                                .swizzled = true});
}

}  // namespace
}  // namespace sm90::attention_backward

namespace {

namespace own = sm90::attention_backward;

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  DT_CUDA_CHECK(cudaGetDevice(&device));
  DT_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

bool whole_16_bytes(const void* pointer, int64_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % 8 == 0;
}

/// Where each part of the workspace begins.
struct Workspace {
  int64_t statistics, d_key_rope, sums, tiles, counters, end;
};
Workspace lay_out(int64_t tokens, int64_t heads) {
  int64_t at = 0;
  const auto take = [&](int64_t bytes) {
    const int64_t begin = at;
    at += (bytes + 255) / 256 * 256;
    return begin;
  };
  const int64_t slots = tokens / own::kQueryTile * heads;
  Workspace w{};
  w.statistics = take(tokens * heads * static_cast<int64_t>(sizeof(float2)));
  w.d_key_rope = take(tokens * heads * own::kRope * 4);
  w.sums = take(slots * own::kSumFloats * 4);
  w.tiles = take(tokens * static_cast<int64_t>(sizeof(own::DocumentTiles)));
  w.counters = take((2 + slots) * 4);
  w.end = at;
  return w;
}

}  // namespace

bool sm90_attention_backward_takes(int64_t nope_dim, int64_t rope_dim, int64_t value_dim) {
  return nope_dim == own::kNope && rope_dim == own::kRope && value_dim == own::kValueDim;
}

bool sm90_attention_backward_fits(const cpu::AttentionInputs<bfloat16>& in) {
  static const bool hopper =
      attribute(cudaDevAttrComputeCapabilityMajor) == 9 && attribute(cudaDevAttrComputeCapabilityMinor) == 0;
  return hopper && sm90_attention_backward_takes(in.nope_dim, in.rope_dim, in.value_dim) &&
         whole_16_bytes(in.query, 8) && whole_16_bytes(in.key_value, 8) && whole_16_bytes(in.key_rope, in.ld_key_rope);
}

int64_t sm90_attention_backward_workspace(int64_t tokens, int64_t heads) {
  return lay_out(tokens, heads).end;
}

void sm90_attention_backward(const cpu::AttentionGradients<bfloat16>& gradients, const bfloat16* d_out,
                             const bfloat16* out, const float* log_sum_exp, const cpu::AttentionInputs<bfloat16>& in,
                             int64_t tokens, void* workspace, cudaStream_t stream) {
  using namespace sm90::attention_backward;
  if (tokens <= 0 || in.heads <= 0) return;
  char* base = static_cast<char*>(workspace);
  const Workspace at = lay_out(tokens, in.heads);
  int* counters = reinterpret_cast<int*>(base + at.counters);
  const int64_t key_value_width = in.heads * (kNope + kValueDim);
  AttentionBackwardParameters p{
      .query = token_map(in.query, in.heads * kKeyDim, in.heads * kKeyDim, tokens, kQueryTile, 64, kKeyDim / 64),
      .d_out = token_map(d_out, in.heads * kValueDim, in.heads * kValueDim, tokens, kQueryTile, 64, kValueDim / 64),
      .key = token_map(in.key_value, key_value_width, key_value_width, tokens, kKeyTile, 32, kNope / 32),
      .key_rope = token_map(in.key_rope, kRope, in.ld_key_rope, tokens, kKeyTile, 32, kRope / 32),
      .value = token_map(in.key_value, key_value_width, key_value_width, tokens, kKeyTile, 64, kValueDim / 64),
      .d_query = gradients.d_query,
      .d_key_value = gradients.d_key_value,
      .d_key_rope = reinterpret_cast<float*>(base + at.d_key_rope),
      .statistics = reinterpret_cast<const float2*>(base + at.statistics),
      .tiles = reinterpret_cast<const DocumentTiles*>(base + at.tiles),
      .tile_count = counters,
      .next_unit = counters + 1,
      .added = counters + 2,
      .sums = reinterpret_cast<float*>(base + at.sums),
      .tokens = static_cast<int>(tokens),
      .heads = static_cast<int>(in.heads),
      .scale = in.scale};
  DT_CUDA_CHECK(cudaMemsetAsync(counters, 0, static_cast<size_t>(at.end - at.counters), stream));
  list_attention_tiles(reinterpret_cast<DocumentTiles*>(base + at.tiles), counters, in.document_offset, in.documents,
                       stream);
  prepare_attention_rows(reinterpret_cast<float2*>(base + at.statistics), p.d_query, p.d_key_value, p.d_key_rope, d_out,
                         out, log_sum_exp, in, tokens, stream);
  static const int blocks = [] {
    DT_CUDA_CHECK(cudaFuncSetAttribute(sm90_attention_backward_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       AttentionShared::kBytes));
    return attribute(cudaDevAttrMultiProcessorCount);
  }();
  sm90_attention_backward_kernel<<<blocks, kThreads, AttentionShared::kBytes, stream>>>(p);
  check_launch("sm90_attention_backward_kernel");
  sum_heads(gradients.d_key_rope, gradients.ld_d_key_rope, p.d_key_rope, tokens, in.heads, in.rope_dim, stream);
}

}  // namespace deeptitan::cuda
