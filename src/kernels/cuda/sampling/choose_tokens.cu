#include "core/error.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/sampling/choose_tokens.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr int kSegment = 512;  // tokens whose weights a warp adds up
constexpr int kMostSegments = kMostChoices / kSegment;

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

/// A block a row.
__global__ void __launch_bounds__(kThreads)
    choose_tokens_kernel(int32_t* chosen, const float* logits, int64_t ld_logits, const TokenChoice* choices,
                         const uint32_t* allowed, int64_t vocab) {
  __shared__ uint64_t best_of_warp[kWarps];
  __shared__ uint64_t sum_of_segment[kMostSegments];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const float* row = logits + blockIdx.x * ld_logits;
  const auto may_be = [&](int64_t token) { return (__ldg(allowed + token / kWarp) >> (token % kWarp) & 1) != 0; };
  uint64_t best = 0;
  bool not_finite = false;
#pragma unroll 8
  for (int64_t token = threadIdx.x; token < vocab; token += kThreads) {
    const float logit = row[token];
    not_finite |= (__float_as_uint(logit) & 0x7f800000u) == 0x7f800000u;
    const uint64_t rank = may_be(token) ? rank_of(logit, static_cast<uint32_t>(token)) : 0;
    best = rank > best ? rank : best;
  }
  not_finite = __syncthreads_or(not_finite) != 0;
  best = block_reduce<kThreads>(best, best_of_warp, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  const TokenChoice choice = choices[blockIdx.x];
  if (not_finite || best == 0 || choice.temperature == 0) {
    if (threadIdx.x == 0) chosen[blockIdx.x] = not_finite || best == 0 ? -1 : static_cast<int32_t>(token_of(best));
    return;
  }
  const double top = static_cast<double>(row[token_of(best)]) / choice.temperature;
  const auto weight_of = [&](int64_t token) {
    return token < vocab && may_be(token) ? choice_weight(choice, row[token], top) : 0;
  };
  const auto segments = static_cast<int>((vocab + kSegment - 1) / kSegment);
  for (int segment = warp; segment < segments; segment += kWarps) {
    uint64_t sum = 0;
#pragma unroll 4
    for (int i = lane; i < kSegment; i += kWarp) sum += weight_of(static_cast<int64_t>(segment) * kSegment + i);
#pragma unroll
    for (int width = kWarp / 2; width >= 1; width /= 2) sum += __shfl_xor_sync(kAllLanes, sum, width);
    if (lane == 0) sum_of_segment[segment] = sum;
  }
  __syncthreads();
  if (warp != 0) return;
  uint64_t total = 0;
  for (int segment = lane; segment < segments; segment += kWarp) total += sum_of_segment[segment];
#pragma unroll
  for (int width = kWarp / 2; width >= 1; width /= 2) total += __shfl_xor_sync(kAllLanes, total, width);
  uint64_t place = sampling_place(choice.bits, total);
  int64_t first = 0;
  for (int segment = 0;; segment += kWarp) {  // the place is less than the sum of all
    const int found = find_place(segment + lane < segments ? sum_of_segment[segment + lane] : 0, place, lane);
    if (found < 0) continue;
    first = static_cast<int64_t>(segment + found) * kSegment;
    break;
  }
  for (;; first += kWarp) {
    const int found = find_place(weight_of(first + lane), place, lane);
    if (found < 0) continue;
    if (lane == 0) chosen[blockIdx.x] = static_cast<int32_t>(first + found);
    return;
  }
}

}  // namespace

void choose_tokens(int32_t* chosen, const float* logits, int64_t ld_logits, const TokenChoice* choices,
                   const uint32_t* allowed, int64_t rows, int64_t vocab, cudaStream_t stream) {
  DT_CHECK(vocab <= kMostChoices, "a GPU chooses among at most {} tokens, found {}", kMostChoices, vocab);
  if (rows <= 0) return;
  choose_tokens_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(chosen, logits, ld_logits, choices,
                                                                             allowed, vocab);
  check_launch("choose_tokens_kernel");
}

}  // namespace deeptitan::cuda
