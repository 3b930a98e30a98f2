// DeepSeek-V3's shape (256 experts in 8 groups of which 4, and 8 experts) on Hopper, chosen by approximate ranks where
// these cannot err. Every decision is checked against twice the largest error; a token with a closer one (ties, NaN,
// infinite biases, five of the chosen in half a group; one token in 600 of normal logits) is chosen again exactly, so
// all choices are those of the exact arithmetic. Scores and weights are always exact.
//
// A warp takes four tokens at once, eight lanes a token, and a lane holds one group's 32 experts: what passes between
// lanes is shared by four tokens. The order of the work:
//  1. The lane ranks its experts, sorts them in fours and adds its two best: the group's rank.
//  2. The lanes of the four best groups give half of their fours to the lanes of the other four groups.
//  3. Every lane merges its four fours into its best four, and lanes merge with lanes.
//  4. Every lane computes one chosen expert's exact score, and looks whether the exact ranks confirm the order.
// Logits come by bulk copies of four tokens through a ring in shared memory. Copies arrive out of order, so the warps
// take the batches of their block as they become free, not each its own.

#include <algorithm>

#include "kernels/cuda/error.h"
#include "kernels/cuda/router/block_counts.cuh"
#include "kernels/cuda/router/packed_ranks.cuh"
#include "kernels/cuda/router/sm90_route_tokens_filtered.h"
#include "kernels/cuda/router/token_choice.cuh"
#include "kernels/cuda/router/token_row.cuh"
#include "kernels/cuda/sm90_primitives.cuh"

namespace deeptitan::cuda::sm90 {

namespace {

constexpr int kWarps = 16;
constexpr int kThreads = kWarps * kWarp;
constexpr int kSlots = 2 * kWarps;  // of the ring
constexpr int kExperts = 256;
constexpr int kGroups = kTokenLanes;
constexpr int kGroupSize = kExperts / kGroups;
constexpr int kTopGroups = 4;
constexpr int kTopK = 8;
constexpr int kBatch = kWarp / kTokenLanes;  // tokens
constexpr int kBatchLogits = kBatch * kExperts;
constexpr int kTokenBytes = kExperts * static_cast<int>(sizeof(float));
static_assert(kTopGroups * 2 == kGroups && kTopK == kTokenLanes);

/// Through which lanes of kept groups give half of their experts away. Element [.][t][i] is that of the kept group with
/// i better ones.
struct Exchange {
  uint4 four[kGroupSize / 8][kBatch][kTopGroups];
  uint32_t group[kBatch][kTopGroups];
};

using ExactScratch = TokenScratch<kExperts / kWarp, kTopGroups * kGroupSize / kWarp>;

union WarpScratch {
  Exchange exchange;
  ExactScratch exact;
};

/// Tickets 0, 1, ... number the batches of a block; ticket i uses slot i % kSlots, and is its use i / kSlots.
struct BlockShared {
  float logits[kSlots][kBatchLogits];  // or the scores, once these are known
  WarpScratch scratch[kWarps];
  uint32_t packed_bias[kExperts];  // bias and expert bits of the packed rank
  float bias[kExperts];
  int32_t counts[kExperts];
  uint64_t full[kSlots];     // mbarriers: the logits have arrived
  uint32_t refills[kSlots];  // the use that is being loaded: a barrier's parity tells only neighbouring uses apart
  uint32_t next_ticket;
};

__device__ bool any_nan(float a, float b) {
  uint32_t any;
  asm("{\n.reg .pred p;\nsetp.nan.f32 p, %1, %2;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(any) : "f"(a), "f"(b));
  return any != 0;
}

/// Arrivals on a slot's barrier: one says how many bytes come. With scores every lane that has read and written in the
/// slot arrives itself. The order would hold without, by the __syncwarp before the one arrival, but racecheck takes an
/// arrival for its own thread's alone.
template <bool kScores>
constexpr uint32_t kSlotArrivals = kScores ? kWarp : 1;

/// Loads a batch into a ring slot. Logits are read once: as the first to evict they push out one another and not what
/// else is in the second-level cache, whose writing back would take memory bandwidth.
__device__ void load_batch(BlockShared& shared, int slot, const float* logits, int tokens, uint64_t evict_first) {
  const uint32_t barrier = shared_address(&shared.full[slot]);
  mbarrier_arrive_expect(barrier, tokens * kTokenBytes);
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(shared.logits[slot])),
      "l"(logits), "r"(tokens * kTokenBytes), "r"(barrier), "l"(evict_first)
      : "memory");
}

/// __threadfence_block() without its sequential consistency.
__device__ void fence_block() {
  asm volatile("fence.acq_rel.cta;" ::: "memory");
}

/// Waits until the logits of the slot's use of this number are there.
__device__ void wait_for_batch(BlockShared& shared, int slot, uint32_t use, int lane) {
  if (use != 0) {
    if (lane == 0) {
      while (atomicAdd(&shared.refills[slot], 0u) != use) {
      }
      fence_block();
    }
    __syncwarp();
  }
  mbarrier_wait(shared_address(&shared.full[slot]), use % 2);
}

/// v = the packed ranks of this lane's group, in sorted fours. With kScores the scores are exact and replace the
/// logits.
///
/// A group's row is 128 bytes, all banks, so the lanes of a token read its 16-byte chunks in different orders: step j
/// reads chunk j ^ group. Rows are aligned to their size, so that is the address of chunk `group` with j's bits
/// flipped.
template <bool kScores>
__device__ void rank_group(uint32_t (&v)[kGroupSize], float* logits, const uint32_t* packed_bias, float scale,
                           uint32_t expert_unit, int group) {
  const uint32_t logits_address = shared_address(logits + group * 4);
  const uint32_t bias_address = shared_address(packed_bias + group * 4);
#pragma unroll
  for (int j = 0; j < kGroupSize / 4; ++j) {
    const auto x = load_shared<float4>(logits_address ^ (j * 16));
    const auto bias = load_shared<uint4>(bias_address ^ (j * 16));
    const float4 score = {score_of<kScores>(x.x), score_of<kScores>(x.y), score_of<kScores>(x.z),
                          score_of<kScores>(x.w)};
    v[4 * j] = to_fixed_point(score.x, scale) * expert_unit + bias.x;
    v[4 * j + 1] = to_fixed_point(score.y, scale) * expert_unit + bias.y;
    v[4 * j + 2] = to_fixed_point(score.z, scale) * expert_unit + bias.z;
    v[4 * j + 3] = to_fixed_point(score.w, scale) * expert_unit + bias.w;
    if (kScores) *reinterpret_cast<float4*>(logits + (j ^ group) * 4) = score;
    sort_four(v + 4 * j);
  }
}

/// Whether the groups are too close to each other to say which are kept. The candidates, 16 a lane in sorted fours, are
/// left in the first half of v.
__device__ bool keep_groups(uint32_t (&v)[kGroupSize], PackedTopTwo best, Exchange& exchange, int token, int group) {
  // Distinct, so that no two lanes take the same place.
  const uint32_t rank = ((best.first + best.second) / 2 & ~(kGroups - 1u)) | group;
  uint32_t better = 0;
#pragma unroll
  for (int d = 1; d < kGroups; ++d) better += (rank - __shfl_xor_sync(kAllLanes, rank, d)) >> 31;
  const bool kept = better < kTopGroups;
  const uint32_t place = kept ? better : kGroups - 1 - better;  // the worst kept group and the best other are partners
  if (kept) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t* four = v + 16 + 4 * i;
      exchange.four[i][token][place] = make_uint4(four[0], four[1], four[2], four[3]);
    }
    exchange.group[token][place] = rank;
  }
  __syncwarp();
  uint32_t lead = ~0u;
  if (!kept) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4 four = exchange.four[i][token][place];
      v[4 * i] = four.x, v[4 * i + 1] = four.y, v[4 * i + 2] = four.z, v[4 * i + 3] = four.w;
    }
    lead = exchange.group[token][place] - rank;
  }
  return lead <= kGroupMargin;
}

/// best = the token's best eight of its lanes' 16 candidates, as merge_lanes leaves them. Returns whether another
/// candidate is too close to the eighth, or might be if five are from this lane.
__device__ bool choose_candidates(uint32_t (&best)[4], const uint32_t (&v)[kGroupSize], int lane) {
  uint32_t x[4], y[4], own[4];
  const uint32_t rest_of_x = merge_fours<false>(x, v, v + 4);
  const uint32_t rest_of_y = merge_fours<false>(y, v + 8, v + 12);
  const uint32_t rest = __vimax3_u32(merge_fours<true>(own, x, y), rest_of_x, rest_of_y);
#pragma unroll
  for (int i = 0; i < 4; ++i) best[i] = own[i];
  merge_lanes(best, lane % 2 != 0);
  const uint32_t eighth = __shfl_sync(kAllLanes, best[3], lane | 1);
  // own[i] - eighth is from 0 upwards for the chosen and from 2^32 - 1 downwards for the others.
  uint32_t closest = own[0] - eighth;
#pragma unroll
  for (int i = 1; i < 4; ++i) closest = __viaddmax_u32(own[i], 0u - eighth, closest);
  return closest >= 0u - kRankMargin || rest + kRankMargin >= eighth;
}

/// Writes a token's experts to scratch.chosen, by the whole warp. `row`: the token's logits, with kScores its scores.
template <bool kScores>
__device__ __noinline__ void choose_exactly(ExactScratch& scratch, const float* row, const float* bias, int lane) {
  constexpr int kPerLane = kExperts / kWarp;
  float rank[kPerLane];
  load_experts(rank, row, lane * kPerLane, kExperts, true, 0.0f);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const float score = kScores ? rank[i] : exact_sigmoid(rank[i]);
    rank[i] = rank_value(exact_add(score, bias[lane * kPerLane + i]));
  }
  __syncwarp();
  store_experts(scratch.rank, rank, lane * kPerLane, kExperts, true);
  __syncwarp();
  RouterArguments options{};
  options.top_groups = kTopGroups;
  options.group_size = kGroupSize;
  cuda::keep_groups<2, true>(scratch, rank, options, lane);  // 2: four lanes a group
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

/// expert_unit = kExpertUnit: multiplied by an argument and added is one IMAD of the floating-point pipe; a power of
/// two that the compiler knows would become an LEA of the half-rate integer pipe, the bound.
template <bool kScores>
__global__ void __launch_bounds__(kThreads, 1) route_tokens_filtered_kernel(RouterArguments a, uint32_t expert_unit) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  BlockShared& shared = *reinterpret_cast<BlockShared*>(shared_bytes);
  int lane;  // volatile: kept in a register and not worked out again in the loop
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  const int warp = threadIdx.x / kWarp;
  const int token = lane / kTokenLanes;
  const int group = lane % kTokenLanes;
  uint64_t evict_first;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(evict_first));

  // Ticket i of the block is batch i * gridDim.x + blockIdx.x, so that few tokens are spread over all blocks.
  const auto full_batches = static_cast<uint32_t>(a.tokens / kBatch);
  const int tail = static_cast<int>(a.tokens % kBatch);
  const uint32_t batches = full_batches + (tail != 0);
  const auto load = [&](uint32_t batch, int slot) {
    load_batch(shared, slot, a.logits + static_cast<int64_t>(batch) * kBatchLogits,
               batch < full_batches ? kBatch : tail, evict_first);
  };
  if (lane == 0) {
#pragma unroll
    for (int s = 0; s < kSlots; s += kWarps) {
      mbarrier_init(shared_address(&shared.full[s + warp]), kSlotArrivals<kScores>);
    }
    mbarrier_init_fence();
#pragma unroll
    for (int s = 0; s < kSlots; s += kWarps) {
      const uint32_t batch = (s + warp) * gridDim.x + blockIdx.x;
      if (batch < batches) load(batch, s + warp);
    }
  }
  __syncwarp();
  if (kScores && lane != 0) {
#pragma unroll
    for (int s = 0; s < kSlots; s += kWarps) {
      if ((s + warp) * gridDim.x + blockIdx.x < batches) mbarrier_arrive(shared_address(&shared.full[s + warp]));
    }
  }
  float bias[kExperts / kWarp] = {};
  float bias_of_thread = 0.0f;
  if (a.bias != nullptr) {
#pragma unroll
    for (int i = 0; i < kExperts / kWarp; ++i) bias[i] = a.bias[i * kWarp + lane];
    bias_of_thread = a.bias[threadIdx.x % kExperts];
  }
  const RankScale ranks = make_rank_scale(bias);
  if (threadIdx.x < kExperts) {
    const uint32_t fixed_point = to_fixed_point(exact_add(bias_of_thread, ranks.largest_bias), ranks.scale);
    shared.packed_bias[threadIdx.x] = fixed_point * kExpertUnit + threadIdx.x;
    shared.bias[threadIdx.x] = bias_of_thread;
    shared.counts[threadIdx.x] = 0;
  }
  if (threadIdx.x < kSlots) shared.refills[threadIdx.x] = 0;
  if (threadIdx.x == 0) shared.next_ticket = kWarps;
  __syncthreads();

  ExactScratch& exact = shared.scratch[warp].exact;
  // merge_lanes has left the choices 0 to 3 in the even lanes, 4 to 7 in the odd.
  const int choice = group % 2 * 4 + group / 2;
  const int lane_of_next_choice = group < 6 ? lane + 2 : (lane & ~(kTokenLanes - 1)) + 1;
  uint32_t ticket = warp;
  for (uint32_t batch; (batch = ticket * gridDim.x + blockIdx.x) < batches;) {
    const int slot = static_cast<int>(ticket % kSlots);
    const uint32_t use = ticket / kSlots;
    wait_for_batch(shared, slot, use, lane);
    float* const logits = shared.logits[slot];
    float* const row = logits + token * kExperts;
    const bool exists = batch < full_batches || token < tail;

    uint32_t v[kGroupSize];
    rank_group<kScores>(v, row + group * kGroupSize, shared.packed_bias + group * kGroupSize, ranks.scale, expert_unit,
                        group);
    if (kScores) __syncwarp();
    const PackedTopTwo top_two = top_two_of_fours(v);
    // A NaN has become some number; it matters only here, or among the chosen, where the weight shows it.
    bool doubtful = !ranks.usable || any_nan(row[top_two.first % kExperts], row[top_two.second % kExperts]);
    doubtful |= keep_groups(v, top_two, shared.scratch[warp].exchange, token, group);
    uint32_t best[4];
    doubtful |= choose_candidates(best, v, lane);

    const uint32_t low = group & 2 ? best[1] : best[0];
    const uint32_t high = group & 2 ? best[3] : best[2];
    uint32_t expert = (group & 4 ? high : low) % kExperts;
    const auto exact_score = [&](uint32_t e) { return kScores ? row[e] : exact_sigmoid(row[e]); };
    float weight = exact_score(expert);
    const float rank = exact_add(weight, shared.bias[expert]);
    const float next_rank = __shfl_sync(kAllLanes, rank, lane_of_next_choice);
    doubtful |= !(rank > next_rank) && choice != kTopK - 1;
    uint32_t doubts = __ballot_sync(kAllLanes, doubtful && exists);
    if (doubts != 0) {
      do {
        const int again = (__ffs(doubts) - 1) / kTokenLanes;
        doubts &= ~(((1u << kTokenLanes) - 1) << (again * kTokenLanes));
        choose_exactly<kScores>(exact, logits + again * kExperts, shared.bias, lane);
        if (token == again) expert = static_cast<uint32_t>(exact.chosen[choice]);
        __syncwarp();
      } while (doubts != 0);
      weight = exact_score(expert);
    }

    if (a.normalize) {
      // In the order of router_math.h: choices 4, then 2, then 1 apart.
      float sum = exact_add(weight, __shfl_xor_sync(kAllLanes, weight, 1));
      sum = exact_add(sum, __shfl_xor_sync(kAllLanes, sum, 4));
      sum = exact_add(sum, __shfl_xor_sync(kAllLanes, sum, 2));
      weight = exact_div(weight, exact_add(sum, kNormalizeEpsilon));
    }
    if (exists) {
      const int64_t at = (static_cast<int64_t>(batch) * kBatch + token) * kTopK + choice;
      a.expert_index[at] = static_cast<int32_t>(expert);
      a.expert_weight[at] = exact_mul(weight, a.weight_scale);
      atomicAdd(&shared.counts[expert], 1);
    }

    if (kScores) fence_async_shared();
    __syncwarp();
    const uint32_t later = batch + kSlots * gridDim.x;
    if (kScores && lane != 0 && later < batches) mbarrier_arrive(shared_address(&shared.full[slot]));
    if (lane == 0) {
      if (kScores) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                         a.scores + static_cast<int64_t>(batch) * kBatchLogits),
                     "r"(shared_address(logits)), "r"((batch < full_batches ? kBatch : tail) * kTokenBytes)
                     : "memory");
        bulk_commit();
      }
      if (later < batches) {
        if (kScores) bulk_wait_read<0>();
        load(later, slot);
        fence_block();  // whoever sees the number sees the barrier's new phase
        atomicExch(&shared.refills[slot], use + 1);
      }
      ticket = atomicAdd(&shared.next_ticket, 1u);
    }
    ticket = __shfl_sync(kAllLanes, ticket, 0);
  }
  if (kScores && lane == 0) bulk_wait_read<0>();
  add_up_counts<kThreads>(a, shared.counts, kExperts);
}

}  // namespace

bool can_filter_experts(const RouterArguments& a, bool sigmoid_and_two_best, int device) {
  if (!sigmoid_and_two_best || a.given || a.experts != kExperts || a.groups != kGroups || a.top_groups != kTopGroups ||
      a.top_k != kTopK) {
    return false;
  }
  if (reinterpret_cast<uintptr_t>(a.logits) % 16 != 0 || reinterpret_cast<uintptr_t>(a.scores) % 16 != 0) return false;
  int major = 0;
  DT_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major == 9;
}

void route_tokens_filtered(const RouterArguments& a, int multiprocessors, cudaStream_t stream) {
  constexpr int kSharedBytes = static_cast<int>(sizeof(BlockShared));
  const auto kernel = a.scores != nullptr ? route_tokens_filtered_kernel<true> : route_tokens_filtered_kernel<false>;
  DT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  const int64_t batches = (a.tokens + kBatch - 1) / kBatch;
  const auto blocks = static_cast<unsigned>(std::clamp<int64_t>(batches, 1, multiprocessors));
  kernel<<<blocks, kThreads, kSharedBytes, stream>>>(a, kExpertUnit);
  check_launch("route_tokens_filtered_kernel");
}

}  // namespace deeptitan::cuda::sm90
