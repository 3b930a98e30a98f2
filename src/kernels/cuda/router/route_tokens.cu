// A warp a token, one block of 32 (or 16) warps a multiprocessor, each warp striding over the tokens with the next
// token's logits in flight. What bounds it is instructions, not memory, so:
//  - groups are ranked by lanes that share the comparisons;
//  - candidates (the experts of the kept groups) are dealt out evenly to the lanes through shared memory and sorted
//    within a lane once; the K best are taken by K rounds of one warp-wide integer maximum over the lanes' heads, and
//    the winner reads its next candidate from shared memory.
// Lanes hold candidates in the order of their experts, so a ballot settles ties to the lower index.

#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/router/router.h"
#include "kernels/cuda/router/sorting_network.cuh"
#include "kernels/cuda/router/token_row.cuh"

namespace deeptitan::cuda {

namespace {

struct RouterArguments {
  int32_t* expert_index;
  float* expert_weight;
  float* scores;
  int32_t* counts;
  const float* logits;
  const float* bias;
  int32_t* workspace;  // a ticket, then the counts of the blocks that have finished
  int64_t tokens;
  int experts;
  int top_k;
  int groups;  // 1 where all groups are kept
  int top_groups;
  int group_size;
  int parts_log2;        // lanes that share a group: the most, a power of two, of which 32 hold all groups
  int elements_of_part;  // of a group's experts
  bool groups_in_lanes;  // a part's experts are those that its lane has in registers
  float weight_scale;
  bool normalize;
  bool given;  // expert_index is an input
  bool vector_logits;
  bool vector_scores;
};

/// What a warp keeps in shared memory for its token.
template <int kPerLane, int kCandidates>
struct TokenScratch {
  alignas(16) float score[kWarp * kPerLane];
  alignas(16) float rank[kWarp * kPerLane];
  uint64_t next[kCandidates][kWarp];  // each lane's second best candidate, third best, ..., none
  int32_t chosen[kMaxTopK];
  int32_t first_expert[kMaxExpertGroups];  // of each kept group, in rising order
};

/// The two largest of the values that are in a and b, a.first >= a.second and so in b.
struct TopTwo {
  float first;
  float second;
};
__device__ TopTwo merge(TopTwo a, TopTwo b) {
  return {fmaxf(a.first, b.first), fmaxf(fminf(a.first, b.first), fmaxf(a.second, b.second))};
}

/// Writes first_expert of the groups to keep. `rank` are this lane's experts; scratch.rank has all of them. kPartsLog2
/// is a.parts_log2 where the compiler may know it, else -1.
template <int kPartsLog2, bool kSigmoid, int kPerLane, int kCandidates>
__device__ void keep_groups(TokenScratch<kPerLane, kCandidates>& scratch, const float (&rank)[kPerLane],
                            const RouterArguments& a, int lane) {
  const int parts_log2 = kPartsLog2 >= 0 ? kPartsLog2 : a.parts_log2;
  const int parts = 1 << parts_log2;
  const int group = lane >> parts_log2;
  const int part = lane & (parts - 1);
  TopTwo best = {-INFINITY, -INFINITY};
  if (kPartsLog2 >= 0 || a.groups_in_lanes) {
    best = {fmaxf(rank[0], rank[1]), fminf(rank[0], rank[1])};
#pragma unroll
    for (int i = 2; i < kPerLane; i += 2) {
      best = merge(best, {fmaxf(rank[i], rank[i + 1]), fminf(rank[i], rank[i + 1])});
    }
  } else if (group < a.groups) {
    const float* ranks = scratch.rank + group * a.group_size;
    const int end = min((part + 1) * a.elements_of_part, a.group_size);
    for (int i = part * a.elements_of_part; i < end; ++i) best = merge(best, {ranks[i], -INFINITY});
  }
#pragma unroll
  for (int width = 1; width < parts; width *= 2) {
    best = merge(best, {__shfl_xor_sync(kAllLanes, best.first, width), __shfl_xor_sync(kAllLanes, best.second, width)});
  }
  float group_rank = best.first;
  if (kSigmoid && (kPartsLog2 >= 0 || a.group_size > 1)) group_rank = rank_value(exact_add(best.first, best.second));
  const uint32_t key = rank_key(group_rank);

  // How many groups are better than this lane's; the lanes of a group compare with different ones.
  int better = 0;
#pragma unroll
  for (int first = 0; first < kWarp; first += parts * parts) {
    const int other = (first >> parts_log2) + part;
    const uint32_t other_key = __shfl_sync(kAllLanes, key, (other << parts_log2) % kWarp);
    better += (kPartsLog2 >= 0 || other < a.groups) && (other_key > key || (other_key == key && other < group));
  }
#pragma unroll
  for (int width = 1; width < parts; width *= 2) better += __shfl_xor_sync(kAllLanes, better, width);
  const bool keep = part == 0 && (kPartsLog2 >= 0 || group < a.groups) && better < a.top_groups;
  const uint32_t kept = __ballot_sync(kAllLanes, keep);
  if (keep) scratch.first_expert[__popc(kept & ((1u << lane) - 1u))] = group * a.group_size;
}

/// A candidate orders by its rank, then by the lower expert; 0, which is below all, stands for none.
__device__ uint64_t candidate_of(float rank, int expert) {
  return static_cast<uint64_t>(rank_key(rank)) << 32 | ~static_cast<uint32_t>(expert);
}

/// Writes scratch.chosen: the top_k best of the candidates, in descending order.
template <int kTopK, int kPerLane, int kCandidates>
__device__ void choose(TokenScratch<kPerLane, kCandidates>& scratch, uint64_t (&candidate)[kCandidates], int top_k,
                       int lane) {
  sort_descending(candidate);
#pragma unroll
  for (int i = 0; i < kCandidates; ++i) scratch.next[i][lane] = i + 1 < kCandidates ? candidate[i + 1] : 0;
  uint64_t head = candidate[0];
  const uint64_t* next = &scratch.next[0][lane];
  const uint32_t lower_lanes = (1u << lane) - 1u;
#pragma unroll
  for (int k = 0; k < (kTopK > 0 ? kTopK : top_k); ++k) {
    const auto key = static_cast<uint32_t>(head >> 32);
    const bool largest = key == __reduce_max_sync(kAllLanes, key);
    const uint32_t lanes = __ballot_sync(kAllLanes, largest);
    if (largest && (lanes & lower_lanes) == 0) {
      scratch.chosen[k] = static_cast<int32_t>(~static_cast<uint32_t>(head));
      head = *next;
      next += kWarp;
    }
  }
}

/// kPerLane experts a lane in the scores, kCandidates a lane in the choice. kTopK and kPartsLog2 are those of the
/// arguments, or 0 and -1 where the compiler does not know them. Where it does, 32 / parts groups fill all lanes, rows
/// are aligned and the experts are not given, so that the loop over tokens is one straight run of instructions.
template <int kPerLane, int kCandidates, bool kSigmoid, int kTopK, int kPartsLog2, int kThreads>
__global__ void __launch_bounds__(kThreads, 1) route_tokens_kernel(RouterArguments a) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ int32_t counts_of_block[kMaxExperts];
  __shared__ bool is_last_block;
  constexpr int kWarps = kThreads / kWarp;
  constexpr bool kFixed = kPartsLog2 >= 0;
  static_assert(!kFixed || (kCandidates == 4 && kTopK > 0));
  const int experts = kFixed ? kWarp * kPerLane : a.experts;
  const int group_size = kFixed ? kPerLane << kPartsLog2 : a.group_size;
  const int top_k = kTopK > 0 ? kTopK : a.top_k;
  const bool vector_logits = kFixed || a.vector_logits;
  const bool vector_scores = kFixed || a.vector_scores;
  const bool given = !kFixed && a.given;
  const int lane = threadIdx.x % kWarp;
  using Scratch = TokenScratch<kPerLane, kCandidates>;
  Scratch& scratch = reinterpret_cast<Scratch*>(shared)[threadIdx.x / kWarp];
  for (int e = threadIdx.x; e < experts; e += kThreads) counts_of_block[e] = 0;
  __syncthreads();

  const int first = lane * kPerLane;
  float bias[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    bias[i] = kSigmoid && a.bias != nullptr && first + i < experts ? a.bias[first + i] : 0.0f;
  }
  // Candidate i of this lane is number lane * kCandidates + i of those in the kept groups.
  int kept_group[kCandidates];
  int within_group[kCandidates];
#pragma unroll
  for (int i = 0; i < kCandidates; ++i) {
    const int number = lane * kCandidates + i;
    kept_group[i] = number < a.top_groups * group_size ? number / group_size : -1;
    within_group[i] = number % group_size;
  }

  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarps;
  int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  float next[kPerLane];
  if (token < a.tokens) {
    load_experts(next, a.logits + token * experts, first, experts, vector_logits, -INFINITY);
  }
  for (; token < a.tokens; token += stride) {
    float score[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) score[i] = next[i];
    if (token + stride < a.tokens) {
      load_experts(next, a.logits + (token + stride) * experts, first, experts, vector_logits, -INFINITY);
    }
    score_experts<kPerLane, kSigmoid>(score);
    if (a.scores != nullptr) store_experts(a.scores + token * experts, score, first, experts, vector_scores);
    float rank[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) rank[i] = rank_value(kSigmoid ? exact_add(score[i], bias[i]) : score[i]);
    store_experts(scratch.score, score, first, kWarp * kPerLane, true);
    store_experts(scratch.rank, rank, first, kWarp * kPerLane, true);
    __syncwarp();

    if (!given) {
      const bool grouped = kFixed || a.groups > 1;
      if (grouped) {
        keep_groups<kPartsLog2, kSigmoid>(scratch, rank, a, lane);
        __syncwarp();
      }
      uint64_t candidate[kCandidates];
      if constexpr (kFixed) {  // four neighbours of one group
        const int expert = scratch.first_expert[kept_group[0]] + within_group[0];
        const float4 four = *reinterpret_cast<const float4*>(&scratch.rank[expert]);
        const float ranks[kCandidates] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int i = 0; i < kCandidates; ++i) candidate[i] = candidate_of(ranks[i], expert + i);
      } else {
#pragma unroll
        for (int i = 0; i < kCandidates; ++i) {
          const bool exists = kept_group[i] >= 0;
          const int expert = exists ? (grouped ? scratch.first_expert[kept_group[i]] : 0) + within_group[i] : 0;
          candidate[i] = exists ? candidate_of(scratch.rank[expert], expert) : 0;
        }
      }
      choose<kTopK>(scratch, candidate, top_k, lane);
      __syncwarp();
    }

    const bool has_slot = lane < top_k;
    const int64_t slot = token * top_k + lane;
    int32_t expert = 0;
    if (has_slot) expert = given ? a.expert_index[slot] : scratch.chosen[lane];
    float weight = has_slot ? scratch.score[expert] : 0.0f;
    if (a.normalize) weight = exact_div(weight, exact_add(warp_sum<kTopK>(weight), kNormalizeEpsilon));
    if (has_slot) {
      if (!given) a.expert_index[slot] = expert;
      a.expert_weight[slot] = exact_mul(weight, a.weight_scale);
      atomicAdd(&counts_of_block[expert], 1);
    }
    __syncwarp();
  }

  // The counts of all blocks meet in the workspace (integers: their order does not show); the last block to arrive
  // moves them out and leaves zeros behind.
  __syncthreads();
  int32_t* counts_of_grid = a.workspace + 1;
  for (int e = threadIdx.x; e < experts; e += kThreads) {
    if (counts_of_block[e] != 0) atomicAdd(&counts_of_grid[e], counts_of_block[e]);
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last_block = atomicAdd(a.workspace, 1) == static_cast<int32_t>(gridDim.x) - 1;
  __syncthreads();
  if (!is_last_block) return;
  __threadfence();
  for (int e = threadIdx.x; e < experts; e += kThreads) a.counts[e] = atomicExch(&counts_of_grid[e], 0);
  if (threadIdx.x == 0) a.workspace[0] = 0;
}

template <int kPerLane, int kCandidates, bool kSigmoid, int kTopK = 0, int kPartsLog2 = -1>
void launch(RouterArguments a, cudaStream_t stream) {
  // 64 registers a thread at 32 warps, 128 at 16.
  constexpr int kThreads = kPerLane > 8 || kCandidates > 4 ? 512 : 1024;
  constexpr int kSharedBytes = kThreads / kWarp * static_cast<int>(sizeof(TokenScratch<kPerLane, kCandidates>));
  const auto kernel = route_tokens_kernel<kPerLane, kCandidates, kSigmoid, kTopK, kPartsLog2, kThreads>;
  a.vector_logits = experts_are_aligned<kPerLane>(a.logits, a.experts);
  a.vector_scores = experts_are_aligned<kPerLane>(a.scores, a.experts);
  while ((kWarp >> (a.parts_log2 + 1)) >= a.groups) ++a.parts_log2;
  const int parts = 1 << a.parts_log2;
  a.elements_of_part = (a.group_size + parts - 1) / parts;
  a.groups_in_lanes = a.group_size == parts * kPerLane;
  int device = 0, multiprocessors = 0;
  DT_CUDA_CHECK(cudaGetDevice(&device));
  DT_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  DT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  const int64_t wanted = (a.tokens + kThreads / kWarp - 1) / (kThreads / kWarp);
  const auto blocks = static_cast<unsigned>(std::clamp<int64_t>(wanted, 1, multiprocessors));
  kernel<<<blocks, kThreads, kSharedBytes, stream>>>(a);
  check_launch("route_tokens_kernel");
}

template <bool kSigmoid>
void launch_kind(const RouterArguments& a, cudaStream_t stream) {
  const int per_lane = experts_per_lane(a.experts);
  const int candidates = (a.top_groups * a.group_size + kWarp - 1) / kWarp;
  if (per_lane == 2) return launch<2, 2, kSigmoid>(a, stream);
  if (per_lane == 4) return launch<4, 4, kSigmoid>(a, stream);
  if constexpr (kSigmoid) {
    // DeepSeek-V3's shape: 8 groups of 32 experts, of which 4, and 8 experts.
    const bool plain = !a.given && experts_are_aligned<8>(a.logits, 256) && experts_are_aligned<8>(a.scores, 256);
    if (plain && a.experts == 256 && a.groups == 8 && candidates == 4 && a.top_k == 8) {
      return launch<8, 4, true, 8, 2>(a, stream);
    }
  }
  if (per_lane == 8) {
    return candidates <= 4 ? launch<8, 4, kSigmoid>(a, stream) : launch<8, 8, kSigmoid>(a, stream);
  }
  return candidates <= 8 ? launch<12, 8, kSigmoid>(a, stream) : launch<12, 12, kSigmoid>(a, stream);
}

void launch_route_tokens(RouterArguments a, const RouterOptions& options, cudaStream_t stream) {
  const bool sigmoid = options.kind == RouterKind::kSigmoidNoauxTc;
  const bool grouped = options.kind != RouterKind::kSoftmaxGreedy && options.top_groups < options.groups;
  a.experts = options.experts;
  a.top_k = options.top_k;
  a.groups = grouped ? options.groups : 1;
  a.top_groups = grouped ? options.top_groups : 1;
  a.group_size = options.experts / a.groups;
  a.normalize = options.normalize_top_k && options.top_k > 1;
  a.weight_scale = a.normalize && !sigmoid ? 1.0f : options.scaling_factor;
  if (sigmoid) {
    launch_kind<true>(a, stream);
  } else {
    launch_kind<false>(a, stream);
  }
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
  a.workspace = static_cast<int32_t*>(workspace);
  a.tokens = tokens;
  launch_route_tokens(a, options, stream);
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
  a.workspace = static_cast<int32_t*>(workspace);
  a.tokens = tokens;
  a.given = true;
  launch_route_tokens(a, options, stream);
}

}  // namespace deeptitan::cuda
