#include <algorithm>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/router/balance.h"
#include "kernels/cuda/router/token_row.cuh"

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
    update_router_bias_kernel(float* bias, const int32_t* load, int64_t experts, float speed) {
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

struct AuxiliaryLossArguments {
  float* d_scores;
  const float* scores;
  const int32_t* expert_index;
  const int32_t* sequence_offset;
  int64_t sequences;
  int64_t tokens;
  float* d_share;  // [sequences, experts]: the gradient of T * loss with respect to s_ti / S_t
  double* loss;    // [sequences, experts]: each expert's part of the sequence's loss
  int experts;
  int top_k;
  bool sigmoid;
  AuxiliaryLossScale scale;
};

/// What a token's scores are divided by: 1 for softmax, their sum for sigmoid; by a warp.
template <int kPerLane>
__device__ float score_sum(const float (&s)[kPerLane], bool sigmoid) {
  return sigmoid ? exact_add(sum_experts(s), kNormalizeEpsilon) : 1.0f;
}

/// A block a sequence. Its tokens go by in their order, a warp's lanes finding each one's sum of scores for all.
template <int kPerLane>
__global__ void __launch_bounds__(kThreads) share_experts_kernel(AuxiliaryLossArguments a) {
  __shared__ double inverse[kWarps];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int64_t sequence = blockIdx.x;
  const int64_t begin = a.sequence_offset[sequence];
  const int64_t end = a.sequence_offset[sequence + 1];
  constexpr int kPerThread = (kMaxExperts + kThreads - 1) / kThreads;
  double score_total[kPerThread] = {};  // T P_i
  int32_t chosen[kPerThread] = {};
  for (int64_t first = begin; first < end; first += kWarps) {
    const int64_t token = first + warp;
    if (token < end) {
      float s[kPerLane];
      load_experts(s, a.scores + token * a.experts, lane * kPerLane, a.experts, false, 0.0f);
      const float sum = score_sum(s, a.sigmoid);
      if (lane == 0) inverse[warp] = 1.0 / sum;
    }
    __syncthreads();
    const int count = static_cast<int>(end - first < kWarps ? end - first : kWarps);
    for (int i = 0; i < count; ++i) {
      for (int part = 0; part < kPerThread; ++part) {
        const int expert = static_cast<int>(threadIdx.x) + part * kThreads;
        if (expert >= a.experts) continue;
        score_total[part] =
            __dadd_rn(score_total[part], __dmul_rn(a.scores[(first + i) * a.experts + expert], inverse[i]));
        for (int k = 0; k < a.top_k; ++k) chosen[part] += a.expert_index[(first + i) * a.top_k + k] == expert;
      }
    }
    __syncthreads();
  }
  const double tokens = static_cast<double>(end - begin);
  for (int part = 0; part < kPerThread; ++part) {
    const int expert = static_cast<int>(threadIdx.x) + part * kThreads;
    if (expert >= a.experts) continue;
    const double f = end > begin ? static_cast<double>(a.experts) * chosen[part] / (a.top_k * tokens) : 0.0;
    const int64_t at = sequence * a.experts + expert;
    a.loss[at] = __dmul_rn(__dmul_rn(a.scale.alpha, f), score_total[part]);
    a.d_share[at] = static_cast<float>(static_cast<double>(a.scale.gradient_scale) * a.scale.alpha * f);
  }
}

/// The experts' parts of each sequence's loss in their order, then the sequences in theirs. One block; a thread a
/// sequence, and one thread at the end.
__global__ void __launch_bounds__(kThreads) add_losses_kernel(double* loss_sum, AuxiliaryLossArguments a) {
  for (int64_t s = threadIdx.x; s < a.sequences; s += kThreads) {
    double loss = 0;
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
    int64_t low = 0, high = a.sequences;  // the last sequence that begins at or before the token
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (a.sequence_offset[middle] <= token) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    if (low == 0 || token >= a.sequence_offset[low]) continue;
    float s[kPerLane], share[kPerLane], product[kPerLane];
    load_experts(s, a.scores + token * a.experts, lane * kPerLane, a.experts, false, 0.0f);
    load_experts(share, a.d_share + (low - 1) * a.experts, lane * kPerLane, a.experts, false, 0.0f);
    float inverse = 1.0f;
    float mean = 0.0f;
    if (a.sigmoid) {
      inverse = exact_reciprocal(score_sum(s, true));
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
  share_experts_kernel<kPerLane><<<static_cast<unsigned>(a.sequences), kThreads, 0, stream>>>(a);
  check_launch("share_experts_kernel");
  add_losses_kernel<<<1, kThreads, 0, stream>>>(loss_sum, a);
  check_launch("add_losses_kernel");
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

void update_router_bias(float* bias, const int32_t* load, int64_t experts, float speed, cudaStream_t stream) {
  if (experts <= 0) return;
  update_router_bias_kernel<<<1, kThreads, 0, stream>>>(bias, load, experts, speed);
  check_launch("update_router_bias_kernel");
}

int64_t sequence_auxiliary_loss_workspace(int64_t sequences, int experts) {
  return sequences * experts * static_cast<int64_t>(sizeof(double) + sizeof(float));
}

void sequence_auxiliary_loss(double* loss_sum, float* d_scores, const float* scores, const int32_t* expert_index,
                             const SequenceOffsets& sequences, int64_t tokens, const RouterOptions& options,
                             const AuxiliaryLossScale& scale, void* workspace, cudaStream_t stream) {
  check_router_options(options);
  if (sequences.count <= 0) return;
  double* loss = static_cast<double*>(workspace);
  const AuxiliaryLossArguments a{.d_scores = d_scores,
                                 .scores = scores,
                                 .expert_index = expert_index,
                                 .sequence_offset = sequences.offsets,
                                 .sequences = sequences.count,
                                 .tokens = tokens,
                                 .d_share = reinterpret_cast<float*>(loss + sequences.count * options.experts),
                                 .loss = loss,
                                 .experts = options.experts,
                                 .top_k = options.top_k,
                                 .sigmoid = options.scoring == RouterScoring::kSigmoid,
                                 .scale = scale};
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
