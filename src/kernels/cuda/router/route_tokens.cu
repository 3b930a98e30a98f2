// A warp a token, one block of 32 (or 16) warps a multiprocessor, each warp striding over the tokens with the next
// token's logits in flight.

#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/kernel_choice.h"
#include "kernels/cuda/router/block_counts.cuh"
#include "kernels/cuda/router/router.h"
#include "kernels/cuda/router/scoring.cuh"
#include "kernels/cuda/router/sm90_route_tokens_filtered.h"
#include "kernels/cuda/router/token_choice.cuh"

namespace deeptitan::cuda {

namespace {

template <int kPerLane, int kCandidates>
struct WarpScratch {
  alignas(16) float score[kWarp * kPerLane];
  TokenScratch<kPerLane, kCandidates> choice;
};

/// kPerLane experts a lane in the scores, kCandidates a lane in the choice.
template <int kPerLane, int kCandidates, RouterScoring kScoring, bool kTwoBest, int kThreads>
__global__ void __launch_bounds__(kThreads, 1) route_tokens_kernel(RouterArguments a) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ int32_t counts_of_block[kMaxExperts];
  wait_for_launch_before();
  let_next_launch_begin();  // which may read what the launches before this one wrote
  constexpr int kWarps = kThreads / kWarp;
  const int lane = threadIdx.x % kWarp;
  auto& [score_of_token, scratch] = reinterpret_cast<WarpScratch<kPerLane, kCandidates>*>(shared)[threadIdx.x / kWarp];
  for (int e = threadIdx.x; e < a.experts; e += kThreads) counts_of_block[e] = 0;
  __syncthreads();

  const int first = lane * kPerLane;
  float bias[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    bias[i] = a.bias != nullptr && first + i < a.experts ? a.bias[first + i] : 0.0f;
  }
  // Candidate i of this lane is number lane * kCandidates + i of those in the kept groups.
  int kept_group[kCandidates];
  int within_group[kCandidates];
#pragma unroll
  for (int i = 0; i < kCandidates; ++i) {
    const int number = lane * kCandidates + i;
    kept_group[i] = number < a.top_groups * a.group_size ? number / a.group_size : -1;
    within_group[i] = number % a.group_size;
  }

  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarps;
  int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  float next[kPerLane];
  if (token < a.tokens) {
    load_experts(next, a.logits + token * a.experts, first, a.experts, a.vector_logits, -INFINITY);
  }
  for (; token < a.tokens; token += stride) {
    float score[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) score[i] = next[i];
    if (token + stride < a.tokens) {
      load_experts(next, a.logits + (token + stride) * a.experts, first, a.experts, a.vector_logits, -INFINITY);
    }
    score_experts<kScoring>(score);
    if (a.scores != nullptr) store_experts(a.scores + token * a.experts, score, first, a.experts, a.vector_scores);
    float rank[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) rank[i] = rank_value(exact_add(score[i], bias[i]));
    store_experts(score_of_token, score, first, kWarp * kPerLane, true);
    store_experts(scratch.rank, rank, first, kWarp * kPerLane, true);
    __syncwarp();

    if (!a.given) {
      const bool grouped = a.groups > 1;
      if (grouped) {
        keep_groups<-1, kTwoBest>(scratch, rank, a, lane);
        __syncwarp();
      }
      uint64_t candidate[kCandidates];
#pragma unroll
      for (int i = 0; i < kCandidates; ++i) {
        const bool exists = kept_group[i] >= 0;
        const int expert = exists ? (grouped ? scratch.first_expert[kept_group[i]] : 0) + within_group[i] : 0;
        candidate[i] = exists ? candidate_of(scratch.rank[expert], expert) : 0;
      }
      choose<0>(scratch, candidate, a.top_k, lane);
      __syncwarp();
    }

    const bool has_slot = lane < a.top_k;
    const int64_t slot = token * a.top_k + lane;
    int32_t expert = 0;
    if (has_slot) expert = a.given ? a.expert_index[slot] : scratch.chosen[lane];
    float weight = has_slot ? score_of_token[expert] : 0.0f;
    if (a.normalize) weight = exact_div(weight, exact_add(warp_sum(weight), kNormalizeEpsilon));
    if (has_slot) {
      if (!a.given) a.expert_index[slot] = expert;
      a.expert_weight[slot] = exact_mul(weight, a.weight_scale);
      atomicAdd(&counts_of_block[expert], 1);
    }
    __syncwarp();
  }
  add_up_counts<kThreads>(a, counts_of_block, a.experts);
}

template <int kPerLane, int kCandidates, RouterScoring kScoring, bool kTwoBest>
void launch(RouterArguments a, int multiprocessors, cudaStream_t stream) {
  // 64 registers a thread at 32 warps, 128 at 16.
  constexpr int kThreads = kPerLane > 8 || kCandidates > 4 ? 512 : 1024;
  constexpr int kSharedBytes = kThreads / kWarp * static_cast<int>(sizeof(WarpScratch<kPerLane, kCandidates>));
  const auto kernel = route_tokens_kernel<kPerLane, kCandidates, kScoring, kTwoBest, kThreads>;
  a.vector_logits = experts_are_aligned<kPerLane>(a.logits, a.experts);
  a.vector_scores = experts_are_aligned<kPerLane>(a.scores, a.experts);
  while ((kWarp >> (a.parts_log2 + 1)) >= a.groups) ++a.parts_log2;
  const int parts = 1 << a.parts_log2;
  a.elements_of_part = (a.group_size + parts - 1) / parts;
  a.groups_in_lanes = a.group_size == parts * kPerLane;
  DT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  const int64_t wanted = (a.tokens + kThreads / kWarp - 1) / (kThreads / kWarp);
  const auto blocks = static_cast<unsigned>(std::clamp<int64_t>(wanted, 1, multiprocessors));
  launch_dependent(kernel, "route_tokens_kernel", dim3(blocks), kThreads, kSharedBytes, stream, a);
}

template <RouterScoring kScoring, bool kTwoBest>
void launch_router(const RouterArguments& a, int multiprocessors, cudaStream_t stream) {
  const int per_lane = experts_per_lane(a.experts);
  const int candidates = (a.top_groups * a.group_size + kWarp - 1) / kWarp;
  if (per_lane == 2) return launch<2, 2, kScoring, kTwoBest>(a, multiprocessors, stream);
  if (per_lane == 4) return launch<4, 4, kScoring, kTwoBest>(a, multiprocessors, stream);
  if (per_lane == 8) {
    return candidates <= 4 ? launch<8, 4, kScoring, kTwoBest>(a, multiprocessors, stream)
                           : launch<8, 8, kScoring, kTwoBest>(a, multiprocessors, stream);
  }
  return candidates <= 8 ? launch<12, 8, kScoring, kTwoBest>(a, multiprocessors, stream)
                         : launch<12, 12, kScoring, kTwoBest>(a, multiprocessors, stream);
}

void launch_route_tokens(RouterArguments a, const RouterOptions& options, cudaStream_t stream) {
  const bool two_best = options.selection == RouterSelection::kGroupsByTwoBest;
  const bool grouped = router_limits_groups(options);
  a.experts = options.experts;
  a.top_k = options.top_k;
  a.groups = grouped ? options.groups : 1;
  a.top_groups = grouped ? options.top_groups : 1;
  a.group_size = options.experts / a.groups;
  a.normalize = options.normalize_top_k && options.top_k > 1;
  a.weight_scale = router_weight_scale(options);
  int device = 0, multiprocessors = 0;
  DT_CUDA_CHECK(cudaGetDevice(&device));
  DT_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const bool as_in_v3 = options.scoring == RouterScoring::kSigmoid && two_best;
  if (!route_in_one_block(a.tokens) && !plain_kernels_wanted() && sm90::can_filter_experts(a, as_in_v3, device)) {
    return sm90::route_tokens_filtered(a, multiprocessors, stream);
  }
  with_scoring(options.scoring, [&]<RouterScoring kScoring>() {
    two_best ? launch_router<kScoring, true>(a, multiprocessors, stream)
             : launch_router<kScoring, false>(a, multiprocessors, stream);
  });
}

__global__ void __launch_bounds__(kMaxExperts) clear_router_workspace_kernel(unsigned long long* workspace) {
  workspace[threadIdx.x] = 0;
}

}  // namespace

void route_tokens(int32_t* expert_index, float* expert_weight, float* scores, int32_t* counts, const float* logits,
                  const float* bias, int64_t tokens, const RouterOptions& options, void* workspace,
                  cudaStream_t stream) {
  check_router_options(options);
  RouterArguments a{};
  a.expert_index = expert_index;
  a.expert_weight = expert_weight;
  a.scores = scores;
  a.counts = counts;
  a.logits = logits;
  a.bias = bias;
  a.workspace = static_cast<unsigned long long*>(workspace);
  a.tokens = tokens;
  launch_route_tokens(a, options, stream);
}

void clear_router_workspace(void* workspace, cudaStream_t stream) {
  clear_router_workspace_kernel<<<1, kMaxExperts, 0, stream>>>(static_cast<unsigned long long*>(workspace));
  check_launch("clear_router_workspace_kernel");
}

void route_tokens_to_given_experts(float* expert_weight, float* scores, int32_t* counts, const float* logits,
                                   const int32_t* expert_index, int64_t tokens, const RouterOptions& options,
                                   void* workspace, cudaStream_t stream) {
  check_router_options(options);
  RouterArguments a{};
  a.expert_index = const_cast<int32_t*>(expert_index);  // only read, since the experts are given
  a.expert_weight = expert_weight;
  a.scores = scores;
  a.counts = counts;
  a.logits = logits;
  a.workspace = static_cast<unsigned long long*>(workspace);
  a.tokens = tokens;
  a.given = true;
  launch_route_tokens(a, options, stream);
}

}  // namespace deeptitan::cuda
