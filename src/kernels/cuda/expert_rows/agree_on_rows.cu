#include "core/error.h"
#include "kernels/cuda/barrier/signal.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/expert_rows/expert_rows.h"
#include "kernels/cuda/warp.cuh"
#include "kernels/router_options.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 512;
static_assert(kThreads >= kMaxExperts, "a thread has one expert");

/// One block.
///
/// Memory order. What this rank did before, such as reading rows that peers are about to overwrite, was done by earlier
/// kernels of its stream, so before every thread here. Each thread fences at system scope before its words, and loads
/// the peers' as acquires: a release pattern and an acquire that synchronise; so what peers did before they counted
/// comes before what this rank's later kernels do in their memory.
__global__ void __launch_bounds__(kThreads)
    agree_on_rows_kernel(AgreedRows agreed, const int32_t* __restrict__ counts, int32_t* all_counts,
                         ExpertRowsShape shape, const __grid_constant__ PeerExchange peers) {
  __shared__ int32_t warp_totals[kThreads / kWarp];
  __shared__ int32_t before[kMaxExperts + 1];  // rows of the experts before each one
  const PeerWindow& window = peers.window;
  const int ranks = window.n_ranks;
  const int experts = shape.experts;
  const int each = experts / ranks;
  const int expert = static_cast<int>(threadIdx.x);
  const uint32_t epoch = epoch_behind(peers.words->counts_epoch);
  const WaitContext context{&peers.words->error, peers.timeout_ns, window.rank, epoch};
  const bool failed_before = __syncthreads_or(load_relaxed_system(context.error) != 0) != 0;
  bool failed = failed_before;
  if (!failed_before) {
    fence_system();
    const int64_t mine = peers.counts_pad + counts_offset(epoch, ranks, window.rank, peers.most_experts);
    for (int i = expert; i < (ranks - 1) * experts; i += kThreads) {
      const int away = window.rank + 1 + i / experts;
      char* peer = window.base[away < ranks ? away : away - ranks];
      store_relaxed_system(reinterpret_cast<uint64_t*>(peer + mine) + i % experts,
                           counted_word(epoch, counts[i % experts]));
    }
    for (int i = expert; i < ranks * experts; i += kThreads) {
      const int source = i / experts;
      int32_t count = counts[i % experts];
      if (source != window.rank) {
        const auto* word = reinterpret_cast<const uint64_t*>(window.base[window.rank] + peers.counts_pad +
                                                             counts_offset(epoch, ranks, source, peers.most_experts)) +
                           i % experts;
        uint64_t seen = 0;
        failed = failed || !wait_until(context, WaitKind::kSplits, source, [&] {
                   seen = load_acquire_system(word);
                   return static_cast<uint32_t>(seen >> 32) == epoch;
                 });
        count = static_cast<int32_t>(seen);
      }
      all_counts[i] = count;
    }
  }
  failed = __syncthreads_or(failed) != 0;

  int32_t total = 0;            // rows of this expert
  int32_t of_ranks_before = 0;  // and those of them that come before this rank's
  for (int p = 0; !failed && expert < experts && p < ranks; ++p) {
    const int32_t count = all_counts[p * experts + expert];
    if (p < window.rank) of_ranks_before += count;
    total += count;
  }
  int32_t of_all;
  const int32_t of_experts_before = block_exclusive_scan<kThreads>(total, warp_totals, of_all);
  if (expert < experts) before[expert] = of_experts_before;
  if (expert == 0) before[experts] = of_all;
  __syncthreads();
  const bool too_many =
      expert < ranks && before[(expert + 1) * each] - before[expert * each] > shape.capacity;  // of rank `expert`
  const bool overflows = __syncthreads_or(too_many) != 0;
  const bool nothing = overflows || failed;
  const int own = window.rank * each;
  if (expert < experts) {
    const int32_t first = before[expert] - before[expert / each * each];
    agreed.first_row[expert] = nothing ? -1 : first + of_ranks_before;
    if (expert >= own && expert < own + each) {
      agreed.group_offset[expert - own] = nothing ? 0 : first;
      agreed.group_size[expert - own] = nothing ? 0 : total;
    }
  }
  if (expert != 0) return;
  agreed.group_offset[each] = nothing ? 0 : before[own + each] - before[own];
  if (overflows && agreed.row_overflow != nullptr) *agreed.row_overflow = 1;
  peers.words->counts_epoch = epoch;
}

constexpr int kPlaceThreads = 256;

__global__ void __launch_bounds__(kPlaceThreads)
    place_slots_kernel(int32_t* __restrict__ place, const int32_t* __restrict__ expert_index,
                       const int32_t* __restrict__ row_of_slot, const int32_t* __restrict__ group_offset,
                       const int32_t* __restrict__ first_row, ExpertRowsShape shape, int experts_of_rank) {
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * kPlaceThreads + threadIdx.x;
  if (slot >= shape.slots) return;
  const int32_t expert = expert_index[slot];
  const int32_t first = first_row[expert];
  const int32_t rank = expert / experts_of_rank;
  place[slot] =
      first < 0 ? -1 : rank * static_cast<int32_t>(shape.capacity) + first + row_of_slot[slot] - group_offset[expert];
}

}  // namespace

void agree_on_rows(const AgreedRows& agreed, const int32_t* counts, int32_t* all_counts, const ExpertRowsShape& shape,
                   const PeerExchange& peers, cudaStream_t stream) {
  const int ranks = peers.window.n_ranks;
  DT_CHECK(ranks >= 1 && ranks <= kMaxPeerRanks && shape.experts >= ranks && shape.experts % ranks == 0 &&
               shape.experts <= kMaxExperts && shape.experts <= peers.most_experts,
           "agree_on_rows: {} experts on {} ranks; they are shared out equally to at most {} ranks, at most {} in all",
           shape.experts, ranks, kMaxPeerRanks, std::min(kMaxExperts, peers.most_experts));
  DT_CHECK(shape.capacity >= 0 && shape.capacity * ranks <= INT32_MAX,
           "agree_on_rows: room for {} rows on each of {} ranks; at most {} in all", shape.capacity, ranks, INT32_MAX);
  agree_on_rows_kernel<<<1, kThreads, 0, stream>>>(agreed, counts, all_counts, shape, peers);
  check_launch("agree_on_rows_kernel");
}

void place_slots(int32_t* place, const int32_t* expert_index, const int32_t* row_of_slot, const int32_t* group_offset,
                 const int32_t* first_row, const ExpertRowsShape& shape, int experts_of_rank, cudaStream_t stream) {
  if (shape.slots == 0) return;
  const auto blocks = static_cast<unsigned>((shape.slots + kPlaceThreads - 1) / kPlaceThreads);
  place_slots_kernel<<<blocks, kPlaceThreads, 0, stream>>>(place, expert_index, row_of_slot, group_offset, first_row,
                                                           shape, experts_of_rank);
  check_launch("place_slots_kernel");
}

}  // namespace deeptitan::cuda
