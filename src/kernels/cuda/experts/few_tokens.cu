#include "kernels/cuda/experts/few_tokens.h"

#include <algorithm>

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
__global__ void __launch_bounds__(kThreads, 2) few_tokens_logits_kernel(const FewTokensMixture m, int router_blocks) {
  extern __shared__ __align__(16) char shared[];
  let_next_launch_begin();
  if (blockIdx.x < router_blocks) {
    return multiply_in_order(
        OrderedProduct<bfloat16>{m.logits, m.experts, m.x, m.hidden, m.router, m.tokens, m.experts, m.hidden},
        static_cast<int64_t>(blockIdx.x) * kOrderedColumns, shared);
  }
  const int lane = threadIdx.x % kWarp;
  const int64_t block = blockIdx.x - router_blocks, token = block % m.tokens;
  const int64_t column = block / m.tokens * kWarps + threadIdx.x / kWarp;
  const bool inside = column < m.shared_width;
  GatedColumn gated;
  gated.begin(m.shared_gate_up, inside ? column : 0, m.shared_width, m.hidden, lane);
  wait_for_launch_before();
  if (inside)
    gated.finish(m.shared_activated + token * m.shared_width + column, m.x + token * m.hidden, m.hidden, lane);
}

/// A warp a column of one choice of one token; those of a column's choices are neighbours.
__global__ void __launch_bounds__(kThreads, 2) few_tokens_gate_up_kernel(const FewTokensMixture m) {
  let_next_launch_begin();
  wait_for_launch_before();
  const int lane = threadIdx.x % kWarp;
  const int64_t slots = m.tokens * m.top_k, slot = blockIdx.x % slots;
  const int64_t column = blockIdx.x / slots * kWarps + threadIdx.x / kWarp;
  if (column >= m.width) return;
  const int64_t expert = m.expert_index[slot];
  GatedColumn gated;
  gated.begin(m.gate_up + expert * 2 * m.width * m.hidden, column, m.width, m.hidden, lane);
  gated.finish(m.activated + slot * m.width + column, m.x + slot / m.top_k * m.hidden, m.hidden, lane);
}

constexpr int kDownColumns = 4;  // of a block
constexpr int kPair = 2;

/// Block (columns / 4 and token): the last `shared_warps` warps multiply the shared expert's two columns at a time, the
/// others those of the choices; then the results are added up.
__global__ void __launch_bounds__(kThreads, 2) few_tokens_down_kernel(const FewTokensMixture m, int shared_warps) {
  __shared__ float result[kMostTopK + 1][kDownColumns];
  let_next_launch_begin();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t token = blockIdx.x % m.tokens, first = blockIdx.x / m.tokens * kDownColumns;
  constexpr int kPairs = kDownColumns / kPair;
  const bfloat16* w[kPair];
  ColumnDots<kPair, 6> dots;
  float value[kPair];
  const auto multiply = [&](const bfloat16* activated, int64_t inputs, int at, int pair) {
    const bfloat16* const x[kPair] = {activated, activated};
    dots.finish(value, x, w, inputs, lane);
    if (lane < kPair) result[at][pair * kPair + lane] = rounded(value[lane == 0 ? 0 : 1]);
  };
  const int slot_warps = kWarps - shared_warps;
  if (warp >= slot_warps) {
    const bfloat16* activated = m.shared_activated + token * m.shared_width;
    for (int pair = warp - slot_warps; pair < kPairs; pair += shared_warps) {
#pragma unroll
      for (int c = 0; c < kPair; ++c) w[c] = m.shared_down + (first + pair * kPair + c) * m.shared_width;
      dots.begin(w, m.shared_width, lane);
      if (pair == warp - slot_warps) wait_for_launch_before();
      multiply(activated, m.shared_width, static_cast<int>(m.top_k), pair);
    }
  } else {
    wait_for_launch_before();
    for (int task = warp; task < m.top_k * kPairs; task += slot_warps) {
      const int k = task / kPairs, pair = task % kPairs;
      const int64_t slot = token * m.top_k + k;
      const bfloat16* of_expert = m.down + m.expert_index[slot] * m.hidden * m.width;
#pragma unroll
      for (int c = 0; c < kPair; ++c) w[c] = of_expert + (first + pair * kPair + c) * m.width;
      dots.begin(w, m.width, lane);
      multiply(m.activated + slot * m.width, m.width, k, pair);
    }
  }
  __syncthreads();
  if (threadIdx.x >= kDownColumns) return;
  float sum = 0;
  for (int k = 0; k < m.top_k; ++k) {
    sum = exact_fma(m.expert_weight[token * m.top_k + k], result[k][threadIdx.x], sum);
  }
  if (m.shared_width > 0) sum = exact_add(sum, result[m.top_k][threadIdx.x]);
  store_rounded(m.out + token * m.hidden + first + threadIdx.x, sum);
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
  launch_dependent(few_tokens_gate_up_kernel, "few_tokens_gate_up_kernel",
                   dim3(blocks(m.width, kWarps, m.tokens * m.top_k)), kThreads, 0, stream, m);
  // As many warps as the shared expert has of the bytes.
  const int64_t all = m.shared_width + m.top_k * m.width;
  const auto share = static_cast<int>((kWarps * m.shared_width + all / 2) / all);
  const int shared_warps = m.shared_width == 0 ? 0 : std::clamp(share, 1, kDownColumns / kPair);
  launch_dependent(few_tokens_down_kernel, "few_tokens_down_kernel", dim3(blocks(m.hidden, kDownColumns, m.tokens)),
                   kThreads, 0, stream, m, shared_warps);
}

}  // namespace deeptitan::cuda
