#include <algorithm>

#include "kernels/cuda/error.h"
#include "kernels/cuda/router/router.h"
#include "kernels/cuda/router/scoring.cuh"

namespace deeptitan::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

struct BackwardArguments {
  float* d_logits;
  const float* d_weight;
  const float* d_scores;
  const float* scores;
  const int32_t* expert_index;
  int64_t tokens;
  int experts;
  int top_k;
  float weight_scale;
  bool normalize;
  bool vector;
};

/// A warp a token. The gradients of the K chosen scores reach the lanes of their experts through shared memory, which
/// is all zeros between tokens.
template <int kPerLane, RouterScoring kScoring>
__global__ void __launch_bounds__(kThreads) route_tokens_backward_kernel(BackwardArguments a) {
  __shared__ __align__(16) float d_chosen[kWarps][kWarp * kPerLane];
  const int lane = threadIdx.x % kWarp;
  float* d_row = d_chosen[threadIdx.x / kWarp];
  for (int i = lane; i < kWarp * kPerLane; i += kWarp) d_row[i] = 0.0f;
  __syncwarp();
  const int first = lane * kPerLane;
  const bool has_slot = lane < a.top_k;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; token < a.tokens;
       token += stride) {
    const float* s_row = a.scores + token * a.experts;
    float s[kPerLane];
    load_experts(s, s_row, first, a.experts, a.vector, 0.0f);
    float d[kPerLane] = {};
    if (a.d_scores != nullptr) {
      load_experts(d, a.d_scores + token * a.experts, first, a.experts, a.vector, 0.0f);
    }
    const int32_t expert = has_slot ? a.expert_index[token * a.top_k + lane] : 0;
    float d_score = has_slot ? a.d_weight[token * a.top_k + lane] : 0.0f;
    if (a.normalize) {
      const float chosen = has_slot ? s_row[expert] : 0.0f;
      const float sum = exact_add(warp_sum(chosen), kNormalizeEpsilon);
      const float mean = exact_div(warp_sum(exact_mul(d_score, chosen)), sum);
      d_score = exact_mul(exact_div(a.weight_scale, sum), exact_add(d_score, -mean));
    } else {
      d_score = exact_mul(a.weight_scale, d_score);
    }
    if (has_slot) d_row[expert] = d_score;
    __syncwarp();
    float from_slots[kPerLane];
    load_experts(from_slots, d_row, first, kWarp * kPerLane, true, 0.0f);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) d[i] = exact_add(d[i], from_slots[i]);
    __syncwarp();
    if (has_slot) d_row[expert] = 0.0f;

    score_experts_backward<kScoring>(d, s);
    store_experts(a.d_logits + token * a.experts, d, first, a.experts, a.vector);
  }
}

template <int kPerLane>
void launch(BackwardArguments a, RouterScoring scoring, cudaStream_t stream) {
  const auto aligned = [&](const float* p) { return experts_are_aligned<kPerLane>(p, a.experts); };
  a.vector = aligned(a.d_logits) && aligned(a.scores) && (a.d_scores == nullptr || aligned(a.d_scores));
  constexpr int64_t kMostBlocks = 2048;  // several for each multiprocessor; the rest is the stride
  const auto blocks = static_cast<unsigned>(std::min((a.tokens + kWarps - 1) / kWarps, kMostBlocks));
  with_scoring(scoring, [&]<RouterScoring kScoring>() {
    route_tokens_backward_kernel<kPerLane, kScoring><<<blocks, kThreads, 0, stream>>>(a);
  });
  check_launch("route_tokens_backward_kernel");
}

}  // namespace

void route_tokens_backward(float* d_logits, const float* d_weight, const float* d_scores, const float* scores,
                           const int32_t* expert_index, int64_t tokens, const RouterOptions& options,
                           cudaStream_t stream) {
  check_router_options(options);
  if (tokens == 0) return;
  BackwardArguments a{};
  a.d_logits = d_logits;
  a.d_weight = d_weight;
  a.d_scores = d_scores;
  a.scores = scores;
  a.expert_index = expert_index;
  a.tokens = tokens;
  a.experts = options.experts;
  a.top_k = options.top_k;
  a.normalize = options.normalize_top_k && options.top_k > 1;
  a.weight_scale = router_weight_scale(options);
  switch (experts_per_lane(options.experts)) {
    case 2:
      return launch<2>(a, options.scoring, stream);
    case 4:
      return launch<4>(a, options.scoring, stream);
    case 8:
      return launch<8>(a, options.scoring, stream);
    default:
      return launch<12>(a, options.scoring, stream);
  }
}

}  // namespace deeptitan::cuda
