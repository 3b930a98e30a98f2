// DeepSeek-V3's shape (256 experts in 8 groups of which 4, and 8 experts), chosen by approximate ranks where these
// cannot err. What bounds the router is instructions, and most are spent on exactness: here a warp ranks a token's
// experts by a sigmoid of two hardware approximations, in floating-point numbers of which the last three bits say which
// of its lane's eight experts it is, and looks whether every decision was taken by more than twice the largest error.
// Where one was not (ties, NaN, infinite biases, four of the chosen in one lane; one token in 150 of normal logits) the
// token is chosen again exactly, so all choices are those of the exact arithmetic. Scores and weights are always exact.
//
// A lane holds eight experts of one group, and a warp takes four tokens at a time: it chooses for one after another,
// and weighs and stores the 4 x 8 choices, one a lane, together.

#include <algorithm>

#include "kernels/cuda/error.h"
#include "kernels/cuda/router/block_counts.cuh"
#include "kernels/cuda/router/route_tokens_filtered.h"
#include "kernels/cuda/router/token_choice.cuh"
#include "kernels/cuda/router/token_row.cuh"

namespace deeptitan::cuda {

namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr int kPerLane = 8;
constexpr int kExperts = kWarp * kPerLane;
constexpr int kGroupLanesLog2 = 2;
constexpr int kGroupLanes = 1 << kGroupLanesLog2;
constexpr int kGroups = kWarp / kGroupLanes;
constexpr int kTopGroups = 4;
constexpr int kTopK = 8;
constexpr int kBatch = kWarp / kTopK;  // tokens

struct WarpScratch {
  TokenScratch<kPerLane, kTopGroups * kGroupLanes * kPerLane / kWarp> exact;
  uint32_t rank[kBatch][kTopK + 1];  // bits of the chosen experts' and of the next best's
  int32_t expert[kBatch][kTopK];
};

/// 1 / (1 + exp(-x)) with an error below 2^-21 (that of ex2.approx is 2^-22 of the power, that of rcp.approx 2^-23, and
/// the power weighs at most 1/4).
__device__ float approximate_sigmoid(float x) {
  float power, score;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.44269504f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(score) : "f"(1.0f + power));
  return score;
}

/// The approximate rank of an expert is sigmoid + bias + the largest |bias| =: b, so none is negative and they order as
/// unsigned integers do. It errs by less than (1 + 2 b) 2^-19: 2^-21 and 2^-23 (the sigmoids'), 7 units of 2^-23 (the
/// three bits) and 3 of 2^-24 (three roundings) times 1 + 2 b.
struct Filter {
  float bias[kPerLane];
  float rank_margin;      // two ranks further apart are in their exact order
  float group_margin[2];  // two sums of two ranks; negative where a lane compares its group with itself
};

__device__ Filter make_filter(const float* bias, int lane) {
  Filter filter;
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    filter.bias[i] = bias != nullptr ? bias[lane * kPerLane + i] : 0.0f;
    largest = fmaxf(largest, fabsf(filter.bias[i]));
  }
  largest = warp_max(largest);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) filter.bias[i] += largest;
  filter.rank_margin = (1.0f + 2.0f * largest) * 0x1p-18f;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool same = lane % kGroupLanes + i * kGroupLanes == lane / kGroupLanes;
    filter.group_margin[i] = same ? -1.0f : 2.0f * filter.rank_margin;
  }
  return filter;
}

__device__ void order(float& high, float& low) {
  const float first = high;
  high = fmaxf(first, low);
  low = fminf(first, low);
}

__device__ void sort_four(float& a, float& b, float& c, float& d) {
  order(a, b);
  order(c, d);
  order(a, c);
  order(b, d);
  order(b, c);
}

__device__ bool any_nan(const float (&v)[kPerLane]) {
  uint32_t any;
  asm("{\n"
      ".reg .pred p;\n"
      "setp.nan.f32 p, %1, %2;\n"
      "setp.nan.or.f32 p, %3, %4, p;\n"
      "setp.nan.or.f32 p, %5, %6, p;\n"
      "setp.nan.or.f32 p, %7, %8, p;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(any)
      : "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]), "f"(v[4]), "f"(v[5]), "f"(v[6]), "f"(v[7]));
  return any != 0;
}

/// Writes the experts of the eight best approximate ranks, and these and the ninth. True in some lane if a NaN or two
/// groups too close to each other make the experts doubtful; ranks too close to each other are left to the caller.
__device__ bool choose_approximately(int32_t* chosen, uint32_t* chosen_rank, float (&rank)[kPerLane],
                                     const Filter& filter, int lane) {
  bool doubtful = any_nan(rank);
  uint32_t upper_bits;  // the compiler may not see the constant: with a register for it, one LOP3 does both operations
  asm("mov.u32 %0, 0xfffffff8;" : "=r"(upper_bits));
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    rank[i] = float_from_bits((float_bits(rank[i]) & upper_bits) | static_cast<uint32_t>(i));
  }
  // This lane's four best, in order: the better half of two sorted fours.
  sort_four(rank[0], rank[1], rank[2], rank[3]);
  sort_four(rank[4], rank[5], rank[6], rank[7]);
  float best[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) best[i] = fmaxf(rank[i], rank[7 - i]);
  order(best[0], best[2]);
  order(best[1], best[3]);
  order(best[0], best[1]);
  order(best[2], best[3]);

  TopTwo of_group = {best[0], best[1]};
#pragma unroll
  for (int width = 1; width < kGroupLanes; width *= 2) {
    of_group = merge(of_group, {__shfl_xor_sync(kAllLanes, of_group.first, width),
                                __shfl_xor_sync(kAllLanes, of_group.second, width)});
  }
  const float sum = of_group.first + of_group.second;
  int better = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float other = __shfl_sync(kAllLanes, sum, (lane % kGroupLanes + i * kGroupLanes) * kGroupLanes);
    const float difference = other - sum;
    doubtful |= !(fabsf(difference) > filter.group_margin[i]);
    better += difference > 0.0f;
  }
#pragma unroll
  for (int width = 1; width < kGroupLanes; width *= 2) better += __shfl_xor_sync(kAllLanes, better, width);

  // A lane that gives all four keeps its last, which then equals a rank already chosen: too close. So do ranks that two
  // lanes hold: neither gives, and the next rounds find them again.
  uint32_t head = better < kTopGroups ? float_bits(best[0]) : 0;
  const uint32_t this_lane = 1u << lane;
#pragma unroll
  for (int k = 0; k < kTopK; ++k) {
    const uint32_t largest = __reduce_max_sync(kAllLanes, head);
    const uint32_t holders = __ballot_sync(kAllLanes, head == largest);
    if (lane == 0) chosen_rank[k] = largest;
    if (holders == this_lane) {
      chosen[k] = static_cast<int32_t>((head & 7u) | (lane * kPerLane));
      head = float_bits(best[1]);
      best[1] = best[2];
      best[2] = best[3];
    }
  }
  const uint32_t ninth = __reduce_max_sync(kAllLanes, head);
  if (lane == 0) chosen_rank[kTopK] = ninth;
  return doubtful;
}

/// Writes the token's experts to scratch.chosen.
__device__ void choose_exactly(decltype(WarpScratch::exact)& scratch, const float* logits, const RouterArguments& a,
                               int lane) {
  float rank[kPerLane];
  load_experts(rank, logits, lane * kPerLane, kExperts, true, 0.0f);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const float bias = a.bias != nullptr ? a.bias[lane * kPerLane + i] : 0.0f;
    rank[i] = rank_value(exact_add(exact_sigmoid(rank[i]), bias));
  }
  store_experts(scratch.rank, rank, lane * kPerLane, kExperts, true);
  __syncwarp();
  keep_groups<kGroupLanesLog2, true>(scratch, rank, a, lane);
  __syncwarp();
  const int expert = scratch.first_expert[lane / 8] + lane % 8 * 4;
  const float4 four = *reinterpret_cast<const float4*>(&scratch.rank[expert]);
  const float ranks[] = {four.x, four.y, four.z, four.w};
  uint64_t candidate[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) candidate[i] = candidate_of(ranks[i], expert + i);
  choose<kTopK>(scratch, candidate, kTopK, lane);
  __syncwarp();
}

template <bool kScores>
__global__ void __launch_bounds__(kThreads, 1) route_tokens_filtered_kernel(RouterArguments a) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ int32_t counts_of_block[kExperts];
  const int lane = threadIdx.x % kWarp;
  WarpScratch& scratch = reinterpret_cast<WarpScratch*>(shared)[threadIdx.x / kWarp];
  for (int e = threadIdx.x; e < kExperts; e += kThreads) counts_of_block[e] = 0;
  __syncthreads();

  // Batches go round the blocks first, so that few tokens are spread over all of them.
  const int64_t batches = (a.tokens + kBatch - 1) / kBatch;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarps;
  int64_t batch = static_cast<int64_t>(threadIdx.x / kWarp) * gridDim.x + blockIdx.x;
  const float* row = a.logits + batch * kBatch * kExperts;
  float next[kPerLane] = {};
  if (batch < batches) load_experts(next, row, lane * kPerLane, kExperts, true, 0.0f);
  const Filter filter = make_filter(a.bias, lane);
  for (; batch < batches; batch += stride, row += stride * kBatch * kExperts) {
    const int64_t first = batch * kBatch;
    const int last = static_cast<int>(min(a.tokens - first, int64_t{kBatch})) - 1;
    uint32_t doubtful = 0;  // one bit a choice
#pragma unroll
    for (int t = 0; t < kBatch; ++t) {
      float rank[kPerLane];
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) rank[i] = next[i];
      if (t + 1 < kBatch ? t < last : batch + stride < batches) {
        load_experts(next, row + (t + 1 < kBatch ? t + 1 : stride * kBatch) * kExperts, lane * kPerLane, kExperts, true,
                     0.0f);
      }
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) rank[i] = kScores ? exact_sigmoid(rank[i]) : approximate_sigmoid(rank[i]);
      if (kScores && t <= last) {
        store_experts(a.scores + (first + t) * kExperts, rank, lane * kPerLane, kExperts, true);
      }
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) rank[i] += filter.bias[i];
      if (choose_approximately(scratch.expert[t], scratch.rank[t], rank, filter, lane)) doubtful |= 1u << (t * kTopK);
    }
    doubtful = __reduce_or_sync(kAllLanes, doubtful);
    __syncwarp();

    const int t = lane / kTopK;
    const uint32_t* rank = &scratch.rank[t][lane % kTopK];
    const bool apart = float_from_bits(rank[0]) - float_from_bits(rank[1]) > filter.rank_margin;
    doubtful |= __ballot_sync(kAllLanes, !apart);
    int32_t expert = scratch.expert[t][lane % kTopK];
    while (doubtful != 0) {
      const int again = (__ffs(doubtful) - 1) / kTopK;
      doubtful &= ~(((1u << kTopK) - 1) << (again * kTopK));
      choose_exactly(scratch.exact, row + min(again, last) * kExperts, a, lane);
      if (t == again) expert = scratch.exact.chosen[lane % kTopK];
      __syncwarp();
    }

    float weight = exact_sigmoid(row[min(t, last) * kExperts + expert]);
    if (a.normalize) weight = exact_div(weight, exact_add(warp_sum<kTopK>(weight), kNormalizeEpsilon));
    if (t <= last) {
      a.expert_index[first * kTopK + lane] = expert;
      a.expert_weight[first * kTopK + lane] = exact_mul(weight, a.weight_scale);
      atomicAdd(&counts_of_block[expert], 1);
    }
    __syncwarp();
  }
  add_up_counts<kThreads>(a, counts_of_block, kExperts);
}

}  // namespace

bool can_filter_experts(const RouterArguments& a, bool sigmoid) {
  return sigmoid && !a.given && a.experts == kExperts && a.groups == kGroups && a.top_groups == kTopGroups &&
         a.top_k == kTopK && experts_are_aligned<kPerLane>(a.logits, kExperts) &&
         experts_are_aligned<kPerLane>(a.scores, kExperts);
}

void route_tokens_filtered(const RouterArguments& a, int multiprocessors, cudaStream_t stream) {
  constexpr int kSharedBytes = kWarps * static_cast<int>(sizeof(WarpScratch));
  const auto kernel = a.scores != nullptr ? route_tokens_filtered_kernel<true> : route_tokens_filtered_kernel<false>;
  DT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  const int64_t batches = (a.tokens + kBatch - 1) / kBatch;
  const auto blocks = static_cast<unsigned>(std::clamp<int64_t>(batches, 1, multiprocessors));
  kernel<<<blocks, kThreads, kSharedBytes, stream>>>(a);
  check_launch("route_tokens_filtered_kernel");
}

}  // namespace deeptitan::cuda
