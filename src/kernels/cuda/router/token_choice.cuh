#pragma once

// The exact choice of a token's experts by a warp; what bounds it is instructions:
//  - groups are ranked by lanes that share the comparisons;
//  - candidates (the experts of the kept groups) are dealt out evenly to the lanes through shared memory and sorted
//    within a lane once; the K best are taken by K rounds of one warp-wide integer maximum over the lanes' heads, and
//    the winner reads its next candidate from shared memory.
// Lanes hold candidates in the order of their experts, so a ballot settles ties to the lower index.

#include "kernels/cuda/router/router_arguments.h"
#include "kernels/cuda/router/sorting_network.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/router_math.h"
#include "kernels/router_options.h"

namespace deeptitan::cuda {

/// What a warp keeps in shared memory to choose the experts of a token.
template <int kPerLane, int kCandidates>
struct TokenScratch {
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
__device__ inline TopTwo merge(TopTwo a, TopTwo b) {
  return {fmaxf(a.first, b.first), fmaxf(fminf(a.first, b.first), fmaxf(a.second, b.second))};
}

/// Writes first_expert of the groups to keep, ranked by their best expert or (kTwoBest) by the sum of their two best.
/// `rank` are this lane's experts; scratch.rank has all of them. kPartsLog2 is a.parts_log2 where the compiler may know
/// it, else -1.
template <int kPartsLog2, bool kTwoBest, int kPerLane, int kCandidates>
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
  if (kTwoBest && (kPartsLog2 >= 0 || a.group_size > 1)) group_rank = rank_value(exact_add(best.first, best.second));
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
__device__ inline uint64_t candidate_of(float rank, int expert) {
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

}  // namespace deeptitan::cuda
