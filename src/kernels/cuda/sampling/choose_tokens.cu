#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/sampling/choose_tokens.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr int kSegment = 512;  // tokens whose weights a warp adds up

/// A logit and its token as one number, larger where the logit is, and of equal ones (0 and -0 too) where the token is
/// lower; never 0.
__device__ __forceinline__ uint64_t rank_of(float logit, uint32_t token) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  const uint32_t rising = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(rising) << 32 | (0xffffffffu - token);
}
__device__ __forceinline__ uint32_t token_of(uint64_t rank) {
  return 0xffffffffu - static_cast<uint32_t>(rank);
}

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

__device__ __forceinline__ bool may_be(const uint32_t* allowed, int64_t token) {
  return (__ldg(allowed + token / kWarp) >> (token % kWarp) & 1) != 0;
}

/// What blocks leave of a row for those behind them.
struct RowParts {
  uint64_t* best = nullptr;  // [rows, parts]: the largest rank of a part; kNotFinite where a value is not finite
  uint64_t* sums = nullptr;  // [rows, segments]: of the weights
  int parts = 0;
  int segments = 0;
};
constexpr uint64_t kNotFinite = ~uint64_t{0};

/// The largest rank of a row, in every lane.
__device__ __forceinline__ uint64_t best_of_row(const RowParts& p, int64_t row, int lane) {
  uint64_t best = 0;
  for (int part = lane; part < p.parts; part += kWarp) {
    const uint64_t of_part = p.best[row * p.parts + part];
    best = of_part > best ? of_part : best;
  }
#pragma unroll
  for (int width = kWarp / 2; width >= 1; width /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, best, width);
    best = other > best ? other : best;
  }
  return best;
}
__device__ __forceinline__ bool draws(const TokenChoice& choice, uint64_t best) {
  return choice.temperature != 0 && best != 0 && best != kNotFinite;
}

/// Block (part, row).
__global__ void __launch_bounds__(kThreads)
    rank_parts_kernel(RowParts p, const float* logits, int64_t ld_logits, const uint32_t* allowed, int64_t vocab) {
  __shared__ uint64_t best_of_warp[kWarps];
  let_next_launch_begin();
  wait_for_launch_before();
  const float* row = logits + blockIdx.y * ld_logits;
  uint64_t best = 0;
#pragma unroll 8
  for (int64_t token = blockIdx.x * int64_t{kThreads} + threadIdx.x; token < vocab; token += gridDim.x * kThreads) {
    const float logit = row[token];
    uint64_t rank = may_be(allowed, token) ? rank_of(logit, static_cast<uint32_t>(token)) : 0;
    if ((__float_as_uint(logit) & 0x7f800000u) == 0x7f800000u) rank = kNotFinite;
    best = rank > best ? rank : best;
  }
  best = block_reduce<kThreads>(best, best_of_warp, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  if (threadIdx.x == 0) p.best[blockIdx.y * p.parts + blockIdx.x] = best;
}

/// Block (part, row): a warp a segment. Nothing is to be done where the likeliest is taken.
__global__ void __launch_bounds__(kThreads)
    weigh_segments_kernel(RowParts p, const float* logits, int64_t ld_logits, const TokenChoice* choices,
                          const uint32_t* allowed, int64_t vocab) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const float* row = logits + blockIdx.y * ld_logits;
  let_next_launch_begin();
  wait_for_launch_before();
  const TokenChoice choice = choices[blockIdx.y];
  const uint64_t best = best_of_row(p, blockIdx.y, lane);
  if (!draws(choice, best)) return;
  const double top = static_cast<double>(row[token_of(best)]) / choice.temperature;
  for (int segment = static_cast<int>(blockIdx.x) * kWarps + warp; segment < p.segments;
       segment += static_cast<int>(gridDim.x) * kWarps) {
    uint64_t sum = 0;
#pragma unroll 4
    for (int i = lane; i < kSegment; i += kWarp) {
      const int64_t token = static_cast<int64_t>(segment) * kSegment + i;
      if (token < vocab && may_be(allowed, token)) sum += choice_weight(choice, row[token], top);
    }
#pragma unroll
    for (int width = kWarp / 2; width >= 1; width /= 2) sum += __shfl_xor_sync(kAllLanes, sum, width);
    if (lane == 0) p.sums[static_cast<int64_t>(blockIdx.y) * p.segments + segment] = sum;
  }
}

/// A warp a row: the likeliest token, or the segment and then the token that hold the place that is drawn.
__global__ void __launch_bounds__(kWarp)
    choose_tokens_kernel(int32_t* chosen, RowParts p, const float* logits, int64_t ld_logits,
                         const TokenChoice* choices, const uint32_t* allowed, int64_t vocab) {
  const int lane = threadIdx.x;
  const float* row = logits + blockIdx.x * ld_logits;
  let_next_launch_begin();
  wait_for_launch_before();
  const TokenChoice choice = choices[blockIdx.x];
  const uint64_t best = best_of_row(p, blockIdx.x, lane);
  if (!draws(choice, best)) {
    if (lane == 0) chosen[blockIdx.x] = best == 0 || best == kNotFinite ? -1 : static_cast<int32_t>(token_of(best));
    return;
  }
  const uint64_t* sums = p.sums + static_cast<int64_t>(blockIdx.x) * p.segments;
  uint64_t total = 0;
  for (int segment = lane; segment < p.segments; segment += kWarp) total += sums[segment];
#pragma unroll
  for (int width = kWarp / 2; width >= 1; width /= 2) total += __shfl_xor_sync(kAllLanes, total, width);
  uint64_t place = sampling_place(choice.bits, total);
  int64_t token = 0;
  for (int segment = 0;; segment += kWarp) {  // the place is less than the sum of all
    const int found = find_place(segment + lane < p.segments ? sums[segment + lane] : 0, place, lane);
    if (found < 0) continue;
    token = static_cast<int64_t>(segment + found) * kSegment;
    break;
  }
  const double top = static_cast<double>(row[token_of(best)]) / choice.temperature;
  for (;; token += kWarp) {
    const int64_t mine = token + lane;
    const bool may = mine < vocab && may_be(allowed, mine);
    const int found = find_place(may ? choice_weight(choice, row[mine], top) : 0, place, lane);
    if (found < 0) continue;
    if (lane == 0) chosen[blockIdx.x] = static_cast<int32_t>(token + found);
    return;
  }
}

constexpr int64_t kBlocks = 256;  // that take the whole chip

/// So many parts of a row that few rows take it too; each has a token for every thread.
RowParts parts_of(int64_t rows, int64_t vocab) {
  const int64_t most = (vocab + kThreads - 1) / kThreads;
  return {.best = nullptr,
          .sums = nullptr,
          .parts = static_cast<int>(std::clamp((kBlocks + rows - 1) / std::max<int64_t>(rows, 1), int64_t{1}, most)),
          .segments = static_cast<int>((vocab + kSegment - 1) / kSegment)};
}

}  // namespace

int64_t choose_tokens_workspace(int64_t rows, int64_t vocab) {
  const int64_t parts = rows + kBlocks;  // of all rows, at most
  return static_cast<int64_t>(sizeof(uint64_t)) * (rows * parts_of(rows, vocab).segments + parts);
}

void choose_tokens(int32_t* chosen, const float* logits, int64_t ld_logits, const TokenChoice* choices,
                   const uint32_t* allowed, int64_t rows, int64_t vocab, void* workspace, cudaStream_t stream) {
  DT_CHECK(vocab <= kMostChoices, "a GPU chooses among at most {} tokens, found {}", kMostChoices, vocab);
  if (rows <= 0) return;
  RowParts p = parts_of(rows, vocab);
  p.sums = static_cast<uint64_t*>(workspace);
  p.best = p.sums + rows * p.segments;
  const dim3 grid(static_cast<unsigned>(p.parts), static_cast<unsigned>(rows));
  launch_dependent(rank_parts_kernel, "rank_parts_kernel", grid, kThreads, 0, stream, p, logits, ld_logits, allowed,
                   vocab);
  launch_dependent(weigh_segments_kernel, "weigh_segments_kernel", grid, kThreads, 0, stream, p, logits, ld_logits,
                   choices, allowed, vocab);
  launch_dependent(choose_tokens_kernel, "choose_tokens_kernel", dim3(static_cast<unsigned>(rows)), kWarp, 0, stream,
                   chosen, p, logits, ld_logits, choices, allowed, vocab);
}

}  // namespace deeptitan::cuda
