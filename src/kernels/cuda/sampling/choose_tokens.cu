#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/sampling/choose_by_order.cuh"
#include "kernels/cuda/sampling/choose_tokens.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr int kSegment = 512;  // tokens whose weights a warp adds up

/// Which of a warp's weights holds the place, counted from the first lane's: its lane; or -1, and `place` is what is
/// left behind them.
__device__ __forceinline__ int find_place(uint64_t weight, uint64_t& place, int lane) {
  uint64_t end = weight;
#pragma unroll
  for (int width = 1; width < kWarp; width *= 2) {
    const uint64_t before = __shfl_up_sync(kAllLanes, end, width);
    if (lane >= width) end += before;
  }
  const unsigned holds = __ballot_sync(kAllLanes, place < end);
  const int found = __ffs(static_cast<int>(holds)) - 1;
  place -= __shfl_sync(kAllLanes, found < 0 ? end : end - weight, found < 0 ? kWarp - 1 : found);
  return found;
}

/// What is chosen from a row, by its index.
__device__ __forceinline__ LogitRow row_at(const RowsOfLogits& rows, int64_t index) {
  return {.logits = rows.logits + index * rows.stride,
          .allowed = rows.allowed,
          .earlier = rows.earlier + index * choice_words(rows.vocab),
          .vocab = rows.vocab,
          .choice = rows.choices[index]};
}

/// The largest of a row's parts, in every lane; of the smallest, their complement is the largest.
template <bool kSmallest = false>
__device__ __forceinline__ uint64_t best_of_row(const uint64_t* of_parts, int parts, int64_t row, int lane) {
  uint64_t best = 0;
  for (int part = lane; part < parts; part += kWarp) {
    const uint64_t of_part = kSmallest ? ~of_parts[row * parts + part] : of_parts[row * parts + part];
    best = of_part > best ? of_part : best;
  }
#pragma unroll
  for (int width = kWarp / 2; width >= 1; width /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, best, width);
    best = other > best ? other : best;
  }
  return kSmallest ? ~best : best;
}
__device__ __forceinline__ bool draws(const TokenChoice& choice, uint64_t best) {
  return choice.temperature != 0 && best != 0 && best != kNotFinite;
}

/// Block (part, row).
__global__ void __launch_bounds__(kThreads) rank_parts_kernel(RowParts p, RowsOfLogits rows) {
  __shared__ uint64_t of_warp[kWarps];
  let_next_launch_begin();
  wait_for_launch_before();
  const LogitRow row = row_at(rows, blockIdx.y);
  uint64_t best = 0, worst = ~uint64_t{0};
  row.for_part<kThreads, 4>(static_cast<int>(blockIdx.x), p.parts, [&](int token, float logit, bool may) {
    uint64_t rank = 0;
    if (may) {
      rank = rank_of(row.penalized(logit, token), static_cast<uint32_t>(token));
      worst = rank < worst ? rank : worst;
    }
    if ((__float_as_uint(logit) & 0x7f800000u) == 0x7f800000u) rank = kNotFinite;
    best = rank > best ? rank : best;
  });
  best = block_reduce<kThreads>(best, of_warp, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  const int64_t place = blockIdx.y * static_cast<int64_t>(p.parts) + blockIdx.x;
  if (threadIdx.x == 0) p.best[place] = best;
  if (!draws_by_order(row.choice)) return;
  worst = block_reduce<kThreads>(worst, of_warp, [](uint64_t a, uint64_t b) { return a < b ? a : b; });
  if (threadIdx.x == 0) p.worst[place] = worst;
  for (int bin = static_cast<int>(blockIdx.x * kThreads + threadIdx.x); bin < kBins;
       bin += static_cast<int>(gridDim.x) * kThreads) {
    p.weight[blockIdx.y * int64_t{kBins} + bin] = 0;
    p.count[blockIdx.y * int64_t{kBins} + bin] = 0;
  }
}

struct SharedBins {
  uint32_t low[kBins], high[kBins], count[kBins];
};

/// A block's part of a row, by bins of its logits. Of the tokens behind the k-th no weight is asked.
__device__ void weigh_bins(SharedBins& shared, const RowParts& p, const LogitRow& row, const LogitBins& bins,
                           double top) {
  const bool weighed = row.choice.top_k == 0;
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
    shared.low[bin] = shared.high[bin] = shared.count[bin] = 0;
  }
  __syncthreads();
  row.for_part<kThreads, 1>(static_cast<int>(blockIdx.x), p.parts, [&](int token, float value, bool may) {
    if (!may) return;
    const float logit = row.penalized(value, token);
    const int bin = bins.of(rank_of(logit, static_cast<uint32_t>(token)));
    atomicAdd(&shared.count[bin], 1u);
    if (weighed) add_amount(&shared.low[bin], &shared.high[bin], token_weight(row.choice, logit, top));
  });
  __syncthreads();
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
    if (shared.count[bin] == 0) continue;
    const int64_t place = blockIdx.y * int64_t{kBins} + bin;
    atomicAdd(&p.count[place], shared.count[bin]);
    if (!weighed) continue;
    atomicAdd(reinterpret_cast<unsigned long long*>(&p.weight[place]),
              static_cast<unsigned long long>(uint64_t{shared.high[bin]} << 32 | shared.low[bin]));
  }
}

/// Block (part, row): a warp a segment, or the part by bins. Nothing is to be done where the likeliest is taken.
__global__ void __launch_bounds__(kThreads) weigh_segments_kernel(RowParts p, RowsOfLogits rows) {
  __shared__ SharedBins shared;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  let_next_launch_begin();
  wait_for_launch_before();
  const LogitRow row = row_at(rows, blockIdx.y);
  const uint64_t best = best_of_row(p.best, p.parts, blockIdx.y, lane);
  if (!draws(row.choice, best)) return;
  const double top = static_cast<double>(logit_of(best)) / row.choice.temperature;
  if (draws_by_order(row.choice)) {
    const LogitBins bins(row.choice, best, best_of_row<true>(p.worst, p.parts, blockIdx.y, lane));
    return weigh_bins(shared, p, row, bins, top);
  }
  for (int segment = static_cast<int>(blockIdx.x) * kWarps + warp; segment < p.segments;
       segment += static_cast<int>(gridDim.x) * kWarps) {
    uint64_t sum = 0;
#pragma unroll 4
    for (int i = lane; i < kSegment; i += kWarp) {
      const int64_t token = static_cast<int64_t>(segment) * kSegment + i;
      if (token < row.vocab && row.may_be(token)) sum += choice_weight(row.choice, row.logit(token), top);
    }
#pragma unroll
    for (int width = kWarp / 2; width >= 1; width /= 2) sum += __shfl_xor_sync(kAllLanes, sum, width);
    if (lane == 0) p.sums[static_cast<int64_t>(blockIdx.y) * p.segments + segment] = sum;
  }
}

/// By a warp: the segment and then the token that hold the place that is drawn.
__device__ int64_t draw(const RowParts& p, const LogitRow& row, uint64_t best, int lane) {
  const uint64_t* sums = p.sums + static_cast<int64_t>(blockIdx.x) * p.segments;
  uint64_t total = 0;
  for (int segment = lane; segment < p.segments; segment += kWarp) total += sums[segment];
#pragma unroll
  for (int width = kWarp / 2; width >= 1; width /= 2) total += __shfl_xor_sync(kAllLanes, total, width);
  uint64_t place = sampling_place(row.choice.bits, total);
  int64_t token = 0;
  for (int segment = 0;; segment += kWarp) {  // the place is less than the sum of all
    const int found = find_place(segment + lane < p.segments ? sums[segment + lane] : 0, place, lane);
    if (found < 0) continue;
    token = static_cast<int64_t>(segment + found) * kSegment;
    break;
  }
  const double top = static_cast<double>(logit_of(best)) / row.choice.temperature;
  for (;; token += kWarp) {
    const int64_t mine = token + lane;
    const bool may = mine < row.vocab && row.may_be(mine);
    const int found = find_place(may ? choice_weight(row.choice, row.logit(mine), top) : 0, place, lane);
    if (found >= 0) return token + found;
  }
}

/// A block a row. Only tokens that are chosen by their order take more of it than a warp.
__global__ void __launch_bounds__(kThreads) choose_tokens_kernel(int32_t* chosen, RowParts p, RowsOfLogits rows) {
  __shared__ ChooseByOrder<kThreads>::Shared shared;
  const int lane = threadIdx.x % kWarp;
  let_next_launch_begin();
  wait_for_launch_before();
  const LogitRow row = row_at(rows, blockIdx.x);
  const bool by_order = draws_by_order(row.choice);
  if (threadIdx.x >= kWarp && !by_order) return;
  const uint64_t best = best_of_row(p.best, p.parts, blockIdx.x, lane);
  int64_t token = best == 0 || best == kNotFinite ? -1 : static_cast<int64_t>(token_of(best));
  if (draws(row.choice, best)) {
    if (by_order) {
      const uint64_t worst = best_of_row<true>(p.worst, p.parts, blockIdx.x, lane);
      token = ChooseByOrder<kThreads>(shared, row, p, blockIdx.x, best, worst).choose();
    } else {
      token = draw(p, row, best, lane);
    }
  }
  if (threadIdx.x == 0) chosen[blockIdx.x] = static_cast<int32_t>(token);
}

constexpr int64_t kBlocks = 256;  // that take the whole chip

/// So many parts of a row that few rows take it too; each has a load for every thread.
RowParts parts_of(int64_t rows, int64_t vocab) {
  const int64_t most = (vocab + 4 * kThreads - 1) / (4 * kThreads);
  return {.parts = static_cast<int>(std::clamp((kBlocks + rows - 1) / std::max<int64_t>(rows, 1), int64_t{1}, most)),
          .segments = static_cast<int>((vocab + kSegment - 1) / kSegment)};
}

}  // namespace

int64_t choose_tokens_workspace(int64_t rows, int64_t vocab) {
  constexpr auto kWord = static_cast<int64_t>(sizeof(uint64_t));
  const int64_t parts = rows + kBlocks;  // of all rows, at most
  const int64_t bins = rows * kBins * (kWord + static_cast<int64_t>(sizeof(uint32_t)));
  return kWord * (rows * parts_of(rows, vocab).segments + 2 * parts) + bins;
}

void choose_tokens(int32_t* chosen, const RowsOfLogits& rows, int64_t count, void* workspace, cudaStream_t stream) {
  DT_CHECK(rows.vocab <= kMostChoices, "a GPU chooses among at most {} tokens, found {}", kMostChoices, rows.vocab);
  if (count <= 0) return;
  RowParts p = parts_of(count, rows.vocab);
  p.sums = static_cast<uint64_t*>(workspace);
  p.best = p.sums + count * p.segments;
  p.worst = p.best + count * p.parts;
  p.weight = p.worst + count * p.parts;
  p.count = reinterpret_cast<uint32_t*>(p.weight + count * kBins);
  const dim3 grid(static_cast<unsigned>(p.parts), static_cast<unsigned>(count));
  launch_dependent(rank_parts_kernel, "rank_parts_kernel", grid, kThreads, 0, stream, p, rows);
  launch_dependent(weigh_segments_kernel, "weigh_segments_kernel", grid, kThreads, 0, stream, p, rows);
  launch_dependent(choose_tokens_kernel, "choose_tokens_kernel", dim3(static_cast<unsigned>(count)), kThreads, 0,
                   stream, chosen, p, rows);
}

}  // namespace deeptitan::cuda
