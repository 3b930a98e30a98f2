// A block takes 128 rows of one document and head at a time and goes over the document's keys in tiles of 128, from the
// diagonal down. One warp loads through the TMA; two warpgroups of 64 rows each multiply. A warpgroup's softmax runs
// beside its own last product with values and beside the other's products, for which they take turns:
//
//   S = Q K^T of tile j beside O += P V of tile j + 1;  P = exp2(S * scale - max);  O *= what the maximum's growth asks
//
// A short document, of at most 64 rows, is one tile of one warpgroup, and the two warpgroups take two heads of it. Only
// the diagonal is masked: rows behind a document's end see what lies there, and are not stored. Values there are
// cleared, since a weight of 0 does not silence a NaN.

#include "kernels/cuda/attention/sm90_attention_forward.h"

#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/attention/sm90_attention_forward_compute.cuh"
#include "kernels/cuda/attention/sm90_attention_tiles.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/grouped_gemm/tensor_map.h"

namespace deeptitan::cuda {
namespace sm90::attention_forward {

template <typename H>
__global__ void __launch_bounds__(kThreads, 1) sm90_attention_forward_kernel(const __grid_constant__ Parameters p) {
  extern __shared__ char dynamic[];
  __shared__ __align__(8) Barriers barriers;
  const Shared<H> shared{(shared_address(dynamic) + 1023) / 1024 * 1024, shared_address(&barriers)};
  if (threadIdx.x == 0) {
    mbarrier_init(shared.query_full(), 1);
    mbarrier_init(shared.query_empty(), kConsumerThreads);
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_init(shared.key_full(stage), 1);
      mbarrier_init(shared.value_full(stage), 1);
      mbarrier_init(shared.key_empty(stage), kConsumerWarps);
      mbarrier_init(shared.value_empty(stage), kConsumerWarps);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < kProducerThreads) {
    decrease_registers<kProducerRegisters>();
    if (threadIdx.x < kWarp) produce<H>(p, shared, &barriers);
  } else {
    increase_registers<kConsumerRegisters>();
    consume<H>(p, shared, &barriers);
  }
}

}  // namespace sm90::attention_forward

namespace {

namespace own = sm90::attention_forward;
using Inputs = cpu::AttentionInputs<bfloat16>;

/// What the kernel reads, of documents or of cached entries.
struct Operand {
  const bfloat16* data;
  int64_t rows;
  int64_t stride;  // elements from row to row
  int64_t width;   // of a row from `data` on
};
struct Operands {
  Operand query, key, value, key_rope;
  int64_t key_head, value_head;  // elements from head to head
  AttentionRows rows;
  int64_t most_visible;
  int64_t heads;
  float scale;
};

template <typename H>
own::Maps make_maps(const Operands& in, int rows) {
  const auto map = [&](const Operand& operand, int blocks) {
    return make_tensor_map(operand.data, {.type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                                          .element_bytes = 2,
                                          .width = operand.width,
                                          .height = operand.rows,
                                          .depth = 1,
                                          .row_stride = operand.stride,
                                          .box_width = 64,
                                          .box_height = rows,
                                          .box_blocks = blocks,
                                          .swizzled = true});
  };
  return {map(in.query, H::kQueryBoxBlocks), map(in.key, H::kNopeBlocks), map(in.value, H::kValueBlocks),
          map(in.key_rope, 1)};
}

int multiprocessors() {
  static const int count = [] {
    int device = 0, found = 0;
    DT_CUDA_CHECK(cudaGetDevice(&device));
    DT_CUDA_CHECK(cudaDeviceGetAttribute(&found, cudaDevAttrMultiProcessorCount, device));
    return found;
  }();
  return count;
}

template <typename H>
void launch(bfloat16* out, float* log_sum_exp, const Operands& in, bool clear, int64_t tokens, void* workspace,
            cudaStream_t stream) {
  order_attention_tiles(workspace, clear ? out : nullptr, in.heads * H::kValueDim, log_sum_exp, in.heads, in.rows,
                        in.most_visible, tokens, stream);
  const own::Parameters parameters{.maps = make_maps<H>(in, own::kRows),
                                   .short_maps = make_maps<H>(in, own::kShortRows),
                                   .list = attention_tiles_at(workspace),
                                   .out = out,
                                   .log_sum_exp = log_sum_exp,
                                   .heads = static_cast<int>(in.heads),
                                   .key_head = static_cast<int>(in.key_head),
                                   .value_head = static_cast<int>(in.value_head),
                                   .scale = in.scale};
  const int64_t units = most_attention_tiles(tokens, in.rows.documents) * (in.heads + 1) / 2 * 2;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(multiprocessors(), std::max<int64_t>(units, 1)));
  static const bool allowed = [] {
    DT_CUDA_CHECK(cudaFuncSetAttribute(own::sm90_attention_forward_kernel<H>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, H::kSharedBytes));
    return true;
  }();
  static_cast<void>(allowed);
  own::sm90_attention_forward_kernel<H><<<blocks, own::kThreads, H::kSharedBytes, stream>>>(parameters);
  DT_CUDA_CHECK(cudaGetLastError());
}

using LargeHead = own::Head<128, 64, 128>;
using SmallHead = own::Head<64, 32, 64>;

template <typename H>
bool is_head(int64_t nope_dim, int64_t rope_dim, int64_t value_dim) {
  return nope_dim == H::kNopeDim && rope_dim == H::kRopeDim && value_dim == H::kValueDim;
}

/// Calls launch<H>(arguments...) for the head that has these sizes.
template <typename... Arguments>
void launch_for(int64_t nope_dim, int64_t rope_dim, int64_t value_dim, const Arguments&... arguments) {
  if (is_head<LargeHead>(nope_dim, rope_dim, value_dim)) return launch<LargeHead>(arguments...);
  DT_CHECK(is_head<SmallHead>(nope_dim, rope_dim, value_dim),
           "attention on Hopper has heads of 128 + 64 and 128 or of 64 + 32 and 64, not of {} + {} and {}; use the "
           "plain form",
           nope_dim, rope_dim, value_dim);
  launch<SmallHead>(arguments...);
}

bool aligned(const bfloat16* pointer, int64_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % 8 == 0;
}

}  // namespace

bool sm90_attention_has_head(int64_t nope_dim, int64_t rope_dim, int64_t value_dim) {
  return is_head<LargeHead>(nope_dim, rope_dim, value_dim) || is_head<SmallHead>(nope_dim, rope_dim, value_dim);
}

bool sm90_attention_fits(const Inputs& in) {
  return sm90_attention_has_head(in.nope_dim, in.rope_dim, in.value_dim) && aligned(in.query, 8) &&
         aligned(in.key_value, 8) && aligned(in.key_rope, in.ld_key_rope);
}

int64_t sm90_attention_forward_workspace(int64_t tokens, int64_t documents) {
  return attention_tiles_bytes(tokens, documents);
}

void sm90_attention_forward(bfloat16* out, float* log_sum_exp, const Inputs& in, int64_t tokens, void* workspace,
                            cudaStream_t stream) {
  if (tokens <= 0 || in.heads <= 0) return;
  const int64_t query = in.heads * (in.nope_dim + in.rope_dim), head = in.nope_dim + in.value_dim;
  const int64_t key_value = in.heads * head;
  const Operands operands{.query = {in.query, tokens, query, query},
                          .key = {in.key_value, tokens, key_value, key_value},
                          .value = {in.key_value + in.nope_dim, tokens, key_value, key_value - in.nope_dim},
                          .key_rope = {in.key_rope, tokens, in.ld_key_rope, in.rope_dim},
                          .key_head = head,
                          .value_head = head,
                          .rows = {.offset = in.document_offset, .documents = in.documents},
                          .most_visible = tokens,
                          .heads = in.heads,
                          .scale = in.scale};
  launch_for(in.nope_dim, in.rope_dim, in.value_dim, out, log_sum_exp, operands, true, tokens, workspace, stream);
}

void sm90_attention_over_entries(bfloat16* out, const EntriesAttention& in, void* workspace, cudaStream_t stream) {
  if (in.tokens <= 0 || in.heads <= 0) return;
  const int64_t query = in.heads * (in.nope_dim + in.rope_dim);
  const int64_t key = in.heads * in.nope_dim, value = in.heads * in.value_dim;
  const Operands operands{.query = {in.query, in.tokens, query, query},
                          .key = {in.key, in.entries, key, key},
                          .value = {in.value, in.entries, value, value},
                          .key_rope = {in.key_rope, in.entries, in.rope_dim, in.rope_dim},
                          .key_head = in.nope_dim,
                          .value_head = in.value_dim,
                          .rows = in.rows,
                          .most_visible = in.most_visible,
                          .heads = in.heads,
                          .scale = in.scale};
  launch_for(in.nope_dim, in.rope_dim, in.value_dim, out, static_cast<float*>(nullptr), operands, false, in.tokens,
             workspace, stream);
}

}  // namespace deeptitan::cuda
