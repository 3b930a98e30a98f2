#include "kernels/cuda/experts/few_tokens.h"

#include "kernels/cuda/activation/swiglu.cuh"
#include "kernels/cuda/matmul/few_rows.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kMostTopK = 16;

__device__ __forceinline__ float rounded(float value) {
  return to_float(to_bfloat16(value));
}

/// A warp's element of SwiGLU: row `column` of the gate and of the other factor, which lie `width` rows apart.
struct GatedColumn {
  const bfloat16* w[2];
  ColumnDots<2, 8> dots;

  __device__ __forceinline__ void begin(const bfloat16* gate_up, int64_t column, int64_t width, int64_t inputs,
                                        int lane) {
    w[0] = gate_up + column * inputs;
    w[1] = gate_up + (width + column) * inputs;
    dots.begin(w, inputs, lane);
  }
  __device__ __forceinline__ void finish(bfloat16* out, const bfloat16* row, int64_t inputs, int lane) {
    const bfloat16* const x[2] = {row, row};
    float value[2];
    dots.finish(value, x, w, inputs, lane);
    if (lane == 0) store_rounded(out, swiglu(rounded(value[0]), rounded(value[1])));
  }
};

/// The first blocks have eight of the router's columns each, the others a warp a column of the shared expert for one
/// token; those of a column's tokens are neighbours.
__global__ void __launch_bounds__(kThreads, 2)
    few_tokens_logits_kernel(const FewTokensMixture m, unsigned router_blocks) {
  extern __shared__ __align__(16) char shared[];
  let_next_launch_begin();
  if (blockIdx.x < router_blocks) {
    return multiply_in_order(
        OrderedProduct<bfloat16>{m.logits, m.experts, m.x, m.hidden, m.router, m.tokens, m.experts, m.hidden},
        static_cast<int64_t>(blockIdx.x) * kOrderedColumns, shared);
  }
  const int lane = threadIdx.x % kWarp;
  const auto tokens = static_cast<uint32_t>(m.tokens), block = blockIdx.x - router_blocks;
  const int64_t token = block % tokens;
  const int64_t column = static_cast<int64_t>(block / tokens) * kWarps + threadIdx.x / kWarp;
  const bool inside = column < m.shared_width;
  GatedColumn gated;
  gated.begin(m.shared_gate_up, inside ? column : 0, m.shared_width, m.hidden, lane);
  wait_for_launch_before();
  if (inside)
    gated.finish(m.shared_activated + token * m.shared_width + column, m.x + token * m.hidden, m.hidden, lane);
}

/// A warp a column. The first blocks multiply the shared expert's activations: what routes the tokens, the launch just
/// before this one, has let it begin only when these were there, and does not hold them up. The others have a column of
/// one choice of one token; those of a column's choices are neighbours.
__global__ void __launch_bounds__(kThreads, 2)
    few_tokens_gate_up_kernel(const FewTokensMixture m, unsigned shared_blocks) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if (blockIdx.x < shared_blocks) {
    const auto tokens = static_cast<uint32_t>(m.tokens);
    const int64_t token = blockIdx.x % tokens, column = static_cast<int64_t>(blockIdx.x / tokens) * kWarps + warp;
    if (column < m.hidden) {
      const bfloat16* const w[1] = {m.shared_down + column * m.shared_width};
      const bfloat16* const x[1] = {m.shared_activated + token * m.shared_width};
      ColumnDots<1, 12> dots;
      float value[1];
      dots.begin(w, m.shared_width, lane);
      dots.finish(value, x, w, m.shared_width, lane);
      if (lane == 0) store_rounded(m.shared_result + token * m.hidden + column, value[0]);
    }
    let_next_launch_begin();
    wait_for_launch_before();
    return;
  }
  const auto slots = static_cast<uint32_t>(m.tokens * m.top_k), block = blockIdx.x - shared_blocks;
  const auto slot = block % slots;
  const int64_t column = static_cast<int64_t>(block / slots) * kWarps + warp;
  const bfloat16* x = m.x + static_cast<int64_t>(slot / static_cast<uint32_t>(m.top_k)) * m.hidden;
  wait_for_launch_before();
  let_next_launch_begin();  // only now: the next launch reads the choices before it waits for this one
  if (column >= m.width) return;
  const int64_t expert = __ldcg(m.expert_index + slot);
  GatedColumn gated;
  gated.begin(m.gate_up + expert * 2 * m.width * m.hidden, column, m.width, m.hidden, lane);
  gated.finish(m.activated + slot * m.width + column, x, m.hidden, lane);
}

constexpr int kDownColumns = 8;  // of a block
constexpr int kPair = 2;
constexpr int kPairs = kDownColumns / kPair;

/// Block (columns / 8 and token): a warp multiplies two columns of a choice at a time; then the results are added up.
__global__ void __launch_bounds__(kThreads, 2) few_tokens_down_kernel(const FewTokensMixture m) {
  __shared__ float result[kMostTopK][kDownColumns];
  let_next_launch_begin();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const auto tokens = static_cast<uint32_t>(m.tokens);
  const int64_t token = blockIdx.x % tokens, first = static_cast<int64_t>(blockIdx.x / tokens) * kDownColumns;
  for (int task = warp; task < m.top_k * kPairs; task += kWarps) {
    const int k = task / kPairs, pair = task % kPairs;
    const int64_t slot = token * m.top_k + k;
    const bfloat16* of_expert = m.down + __ldcg(m.expert_index + slot) * m.hidden * m.width;
    const bfloat16* const activated = m.activated + slot * m.width;
    const bfloat16* w[kPair];
    const bfloat16* const x[kPair] = {activated, activated};
#pragma unroll
    for (int c = 0; c < kPair; ++c) w[c] = of_expert + (first + pair * kPair + c) * m.width;
    ColumnDots<kPair, 6> dots;
    float value[kPair];
    dots.begin(w, m.width, lane);
    if (task == warp) wait_for_launch_before();
    dots.finish(value, x, w, m.width, lane);
    if (lane < kPair) result[k][pair * kPair + lane] = rounded(value[lane == 0 ? 0 : 1]);
  }
  wait_for_launch_before();  // also where a warp has no choice
  __syncthreads();
  if (threadIdx.x >= kDownColumns) return;
  const int64_t at = token * m.hidden + first + threadIdx.x;
  float sum = 0;
  for (int k = 0; k < m.top_k; ++k) {
    sum = exact_fma(m.expert_weight[token * m.top_k + k], result[k][threadIdx.x], sum);
  }
  if (m.shared_width > 0) sum = exact_add(sum, to_float(m.shared_result[at]));
  store_rounded(m.out + at, to_float(m.residual[at]) + rounded(sum));
}

unsigned blocks(int64_t columns, int64_t each, int64_t times) {
  return static_cast<unsigned>((columns + each - 1) / each * times);
}

}  // namespace

bool few_tokens_mixture_fits(const FewTokensMixture& m) {
  const auto aligned = [](const bfloat16* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  const auto whole = [](int64_t elements) { return elements % kFewVector == 0; };
  return m.tokens <= kFewMixtureTokens && m.top_k <= kMostTopK && whole(m.hidden) && whole(m.width) &&
         whole(m.shared_width) && aligned(m.x) && aligned(m.gate_up) && aligned(m.down) && aligned(m.shared_gate_up) &&
         aligned(m.shared_down);
}

void few_tokens_logits(const FewTokensMixture& m, cudaStream_t stream) {
  if (m.tokens <= 0) return;
  static_assert(kFewMixtureTokens <= kOrderedRows);
  DT_CUDA_CHECK(cudaFuncSetAttribute(few_tokens_logits_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     kOrderedBytes<bfloat16>));
  const unsigned router_blocks = blocks(m.experts, kOrderedColumns, 1);
  launch_dependent(few_tokens_logits_kernel, "few_tokens_logits_kernel",
                   dim3(router_blocks + blocks(m.shared_width, kWarps, m.tokens)), kThreads, kOrderedBytes<bfloat16>,
                   stream, m, router_blocks);
}

void few_tokens_experts(const FewTokensMixture& m, cudaStream_t stream) {
  if (m.tokens <= 0) return;
  const unsigned shared_blocks = m.shared_width == 0 ? 0 : blocks(m.hidden, kWarps, m.tokens);
  launch_dependent(few_tokens_gate_up_kernel, "few_tokens_gate_up_kernel",
                   dim3(shared_blocks + blocks(m.width, kWarps, m.tokens * m.top_k)), kThreads, 0, stream, m,
                   shared_blocks);
  launch_dependent(few_tokens_down_kernel, "few_tokens_down_kernel", dim3(blocks(m.hidden, kDownColumns, m.tokens)),
                   kThreads, 0, stream, m);
}

}  // namespace deeptitan::cuda
