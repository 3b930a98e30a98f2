#include <algorithm>

#include "kernels/cpu/router/router.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/router/balance.h"
#include "kernels/cuda/router/scoring.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

__global__ void __launch_bounds__(kThreads)
    accumulate_counts_kernel(int32_t* load, const int32_t* counts, int64_t experts) {
  for (int64_t e = first_element(); e < experts; e += element_stride()) load[e] += counts[e];
}

// Integer additions commute: the order of the atomics does not show.
__global__ void __launch_bounds__(kThreads)
    count_choices_kernel(int32_t* counts, const int32_t* expert_index, int64_t slots) {
  for (int64_t slot = first_element(); slot < slots; slot += element_stride())
    atomicAdd(&counts[expert_index[slot]], 1);
}

__global__ void __launch_bounds__(kThreads)
    update_router_bias_kernel(float* bias, const int32_t* load, int64_t experts, float speed, const int32_t* valid) {
  if (valid != nullptr && *valid == 0) return;
  __shared__ int64_t shared[kWarps];
  int64_t total = 0;
  for (int64_t e = threadIdx.x; e < experts; e += kThreads) total += load[e];
  total = block_sum<kThreads>(total, shared);
  for (int64_t e = threadIdx.x; e < experts; e += kThreads) {
    const int64_t scaled = load[e] * experts;  // compared with the total: no division
    if (scaled < total) bias[e] = exact_add(bias[e], speed);
    if (scaled > total) bias[e] = exact_add(bias[e], -speed);
  }
}

__global__ void __launch_bounds__(kThreads)
    summarise_load_kernel(double* summary, const int32_t* load, const float* bias, int64_t experts) {
  __shared__ int64_t shared[kWarps];
  __shared__ float shared_bias[kWarps];
  int64_t largest = 0, whole = 0, idle = 0;
  float lowest = INFINITY, highest = -INFINITY;
  for (int64_t e = threadIdx.x; e < experts; e += kThreads) {
    largest = load[e] > largest ? load[e] : largest;
    whole += load[e];
    idle += load[e] == 0;
    if (bias == nullptr) continue;
    lowest = fminf(lowest, bias[e]);
    highest = fmaxf(highest, bias[e]);
  }
  largest = block_reduce<kThreads>(largest, shared, [](int64_t a, int64_t b) { return a > b ? a : b; });
  whole = block_sum<kThreads>(whole, shared);
  idle = block_sum<kThreads>(idle, shared);
  lowest = block_reduce<kThreads>(lowest, shared_bias, [](float a, float b) { return fminf(a, b); });
  highest = block_reduce<kThreads>(highest, shared_bias, [](float a, float b) { return fmaxf(a, b); });
  if (threadIdx.x != 0) return;
  const bool biased = bias != nullptr && experts > 0;
  summary[0] = static_cast<double>(largest);
  summary[1] = static_cast<double>(whole);
  summary[2] = static_cast<double>(idle);
  summary[3] = biased ? lowest : 0.0;
  summary[4] = biased ? highest : 0.0;
}

struct AuxiliaryLossArguments {
  float* d_scores;
  const float* scores;
  const int32_t* expert_index;
  const int32_t* sequence_offset;
  int64_t sequences;
  int64_t tokens;
  double* loss;     // [sequences, experts]: each expert's part of the sequence's loss
  double* inverse;  // [tokens]: 1 / what a token's scores are divided by
  float* d_share;   // [sequences, experts]: the gradient of T * loss with respect to s_ti / S_t
  int32_t* chosen;  // [sequences, experts]: tokens that chose it
  int experts;
  int top_k;
  bool divided;  // scores, by their total, to be shares of 1
  float alpha;
  const double* gradient_scale;  // null: no gradient is wanted
};

/// The sequence that holds a token; -1: none.
__device__ int64_t sequence_of(const AuxiliaryLossArguments& a, int64_t token) {
  int64_t low = 0, high = a.sequences;  // the last sequence that begins at or before the token
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (a.sequence_offset[middle] <= token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low == 0 || token >= a.sequence_offset[low] ? -1 : low - 1;
}

/// A warp a token: what its scores are divided by, and its choices counted, in integers, whose sum has no order.
template <int kPerLane>
__global__ void __launch_bounds__(kThreads) prepare_shares_kernel(AuxiliaryLossArguments a) {
  const int lane = threadIdx.x % kWarp;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; token < a.tokens;
       token += stride) {
    const int64_t sequence = sequence_of(a, token);
    if (sequence < 0) continue;
    float s[kPerLane];
    load_experts(s, a.scores + token * a.experts, lane * kPerLane, a.experts, false, 0.0f);
    const float sum = a.divided ? score_total(s) : 1.0f;
    if (lane == 0) a.inverse[token] = 1.0 / sum;
    for (int k = lane; k < a.top_k; k += kWarp) {
      atomicAdd(a.chosen + sequence * a.experts + a.expert_index[token * a.top_k + k], 1);
    }
  }
}

/// A block has so many experts of a sequence, and for each so many threads, which add up blocks of its tokens' scores.
constexpr int kSharedExperts = 16;
constexpr int kShares = 64;

/// Block (experts / kSharedExperts, sequence): each expert's part of the gradient, and of the loss, for which the
/// tokens' scores are added up block by block of tokens, and the blocks in their order.
__global__ void __launch_bounds__(kSharedExperts* kShares)
    share_experts_kernel(AuxiliaryLossArguments a, bool with_loss) {
  __shared__ double of_blocks[kShares][kSharedExperts];
  const int64_t sequence = blockIdx.y;
  const int64_t begin = a.sequence_offset[sequence];
  const int64_t end = a.sequence_offset[sequence + 1];
  const auto column = static_cast<int>(threadIdx.x), share = static_cast<int>(threadIdx.y);
  const int expert = static_cast<int>(blockIdx.x) * kSharedExperts + column;
  const bool known = expert < a.experts;
  const int64_t at = sequence * a.experts + expert;
  double f = 0;
  if (share == 0 && known) {
    const double tokens = static_cast<double>(end - begin);
    const double gradient_scale = a.gradient_scale == nullptr ? 0.0 : static_cast<float>(*a.gradient_scale);
    f = end > begin ? static_cast<double>(a.experts) * a.chosen[at] / (a.top_k * tokens) : 0.0;
    a.d_share[at] = static_cast<float>(gradient_scale * a.alpha * f);
  }
  if (!with_loss) return;
  double total = 0;  // T P_i
  for (int64_t first = begin; first < end; first += kShares * cpu::kBalanceBlock) {
    const int64_t block = first + share * cpu::kBalanceBlock;
    const int64_t block_end = block + cpu::kBalanceBlock < end ? block + cpu::kBalanceBlock : end;
    double sum = 0;
    if (known) {
#pragma unroll 16
      for (int64_t token = block; token < block_end; ++token) {
        sum = __dadd_rn(sum, __dmul_rn(a.scores[token * a.experts + expert], a.inverse[token]));
      }
    }
    of_blocks[share][column] = sum;
    __syncthreads();
    if (share == 0) {
      for (int s = 0; s < kShares && first + s * cpu::kBalanceBlock < end; ++s) {
        total = __dadd_rn(total, of_blocks[s][column]);
      }
    }
    __syncthreads();
  }
  if (share == 0 && known) a.loss[at] = __dmul_rn(__dmul_rn(a.alpha, f), total);
}

/// The experts' parts of each sequence's loss in their order, then the sequences in theirs. One block; a thread a
/// sequence, and one thread at the end.
__global__ void __launch_bounds__(kThreads) add_losses_kernel(double* loss_sum, AuxiliaryLossArguments a) {
  for (int64_t s = threadIdx.x; s < a.sequences; s += kThreads) {
    double loss = 0;
#pragma unroll 16
    for (int e = 0; e < a.experts; ++e) loss = __dadd_rn(loss, a.loss[s * a.experts + e]);
    a.loss[s * a.experts] = loss;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  double sum = *loss_sum;
  for (int64_t s = 0; s < a.sequences; ++s) sum = __dadd_rn(sum, a.loss[s * a.experts]);
  *loss_sum = sum;
}

/// A warp a token.
template <int kPerLane>
__global__ void __launch_bounds__(kThreads) add_score_gradients_kernel(AuxiliaryLossArguments a) {
  const int lane = threadIdx.x % kWarp;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; token < a.tokens;
       token += stride) {
    const int64_t sequence = sequence_of(a, token);
    if (sequence < 0) continue;
    float s[kPerLane], share[kPerLane], product[kPerLane];
    load_experts(s, a.scores + token * a.experts, lane * kPerLane, a.experts, false, 0.0f);
    load_experts(share, a.d_share + sequence * a.experts, lane * kPerLane, a.experts, false, 0.0f);
    float inverse = 1.0f;
    float mean = 0.0f;
    if (a.divided) {
      inverse = exact_reciprocal(score_total(s));
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) product[i] = exact_mul(share[i], s[i]);
      mean = exact_mul(sum_experts(product), inverse);
    }
    float* d = a.d_scores + token * a.experts;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int expert = lane * kPerLane + i;
      if (expert < a.experts) d[expert] = exact_add(d[expert], exact_mul(inverse, exact_add(share[i], -mean)));
    }
  }
}

template <int kPerLane>
void launch_auxiliary_loss(double* loss_sum, const AuxiliaryLossArguments& a, cudaStream_t stream) {
  const int64_t shares = a.sequences * a.experts;
  DT_CUDA_CHECK(cudaMemsetAsync(a.chosen, 0, shares * sizeof(int32_t), stream));
  if (a.tokens > 0) {
    prepare_shares_kernel<kPerLane><<<blocks_for<kWarps>(a.tokens), kThreads, 0, stream>>>(a);
    check_launch("prepare_shares_kernel");
  }
  share_experts_kernel<<<dim3(static_cast<unsigned>((a.experts + kSharedExperts - 1) / kSharedExperts),
                              static_cast<unsigned>(a.sequences)),
                         dim3(kSharedExperts, kShares), 0, stream>>>(a, loss_sum != nullptr);
  check_launch("share_experts_kernel");
  if (loss_sum != nullptr) {
    add_losses_kernel<<<1, kThreads, 0, stream>>>(loss_sum, a);
    check_launch("add_losses_kernel");
  }
  if (a.d_scores == nullptr || a.tokens == 0) return;
  add_score_gradients_kernel<kPerLane><<<blocks_for<kWarps>(a.tokens), kThreads, 0, stream>>>(a);
  check_launch("add_score_gradients_kernel");
}

}  // namespace

void accumulate_counts(int32_t* load, const int32_t* counts, int64_t experts, cudaStream_t stream) {
  if (experts <= 0) return;
  accumulate_counts_kernel<<<blocks_for<kThreads>(experts), kThreads, 0, stream>>>(load, counts, experts);
  check_launch("accumulate_counts_kernel");
}

void count_choices(int32_t* counts, int64_t experts, const int32_t* expert_index, int64_t slots, cudaStream_t stream) {
  if (experts <= 0) return;
  DT_CUDA_CHECK(cudaMemsetAsync(counts, 0, static_cast<size_t>(experts) * sizeof(int32_t), stream));
  if (slots <= 0) return;
  count_choices_kernel<<<blocks_for<kThreads>(slots), kThreads, 0, stream>>>(counts, expert_index, slots);
  check_launch("count_choices_kernel");
}

void update_router_bias(float* bias, const int32_t* load, int64_t experts, float speed, const int32_t* valid,
                        cudaStream_t stream) {
  if (experts <= 0) return;
  update_router_bias_kernel<<<1, kThreads, 0, stream>>>(bias, load, experts, speed, valid);
  check_launch("update_router_bias_kernel");
}

void summarise_load(double* summary, const int32_t* load, const float* bias, int64_t experts, cudaStream_t stream) {
  summarise_load_kernel<<<1, kThreads, 0, stream>>>(summary, load, bias, experts);
  check_launch("summarise_load_kernel");
}

int64_t sequence_auxiliary_loss_workspace(int64_t sequences, int64_t tokens, int experts) {
  constexpr auto kOfShare = static_cast<int64_t>(sizeof(double) + sizeof(float) + sizeof(int32_t));
  return sequences * experts * kOfShare + tokens * static_cast<int64_t>(sizeof(double));
}

void sequence_auxiliary_loss(double* loss_sum, float* d_scores, const float* scores, const int32_t* expert_index,
                             const SequenceOffsets& sequences, int64_t tokens, const RouterOptions& options,
                             float alpha, const double* gradient_scale, void* workspace, cudaStream_t stream) {
  check_router_options(options);
  if (sequences.count <= 0) return;
  const int64_t shares = sequences.count * options.experts;
  double* loss = static_cast<double*>(workspace);
  double* inverse = loss + shares;
  auto* d_share = reinterpret_cast<float*>(inverse + tokens);
  const AuxiliaryLossArguments a{.d_scores = d_scores,
                                 .scores = scores,
                                 .expert_index = expert_index,
                                 .sequence_offset = sequences.offsets,
                                 .sequences = sequences.count,
                                 .tokens = tokens,
                                 .loss = loss,
                                 .inverse = inverse,
                                 .d_share = d_share,
                                 .chosen = reinterpret_cast<int32_t*>(d_share + shares),
                                 .experts = options.experts,
                                 .top_k = options.top_k,
                                 .divided = !sums_to_one(options.scoring),
                                 .alpha = alpha,
                                 .gradient_scale = d_scores == nullptr ? nullptr : gradient_scale};
  switch (experts_per_lane(options.experts)) {
    case 2:
      return launch_auxiliary_loss<2>(loss_sum, a, stream);
    case 4:
      return launch_auxiliary_loss<4>(loss_sum, a, stream);
    case 8:
      return launch_auxiliary_loss<8>(loss_sum, a, stream);
    default:
      return launch_auxiliary_loss<12>(loss_sum, a, stream);
  }
}

}  // namespace deeptitan::cuda
