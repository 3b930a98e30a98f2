#include <algorithm>
#include <type_traits>

#include "core/error.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/rank_sum/peer_parts.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kEach = 4;  // wide loads that a thread has on their way
// What is on its way at a time is to fill the link, whose loads take about two microseconds.
constexpr int64_t kMostBlocks = 96;
constexpr int kWide = 16;  // bytes of a load

template <typename T>
__device__ void store_as_floats(float* to, const uint4& words) {
  if constexpr (std::is_same_v<T, float>) {
    *reinterpret_cast<uint4*>(to) = words;
  } else {
    // A bf16 is the upper half of the float that it stands for; the first of two lies in a word's lower half.
    const auto low = [](uint32_t word) { return __uint_as_float(word << 16); };
    const auto high = [](uint32_t word) { return __uint_as_float(word & 0xffff0000u); };
    *reinterpret_cast<float4*>(to) = {low(words.x), high(words.x), low(words.y), high(words.y)};
    *reinterpret_cast<float4*>(to + 4) = {low(words.z), high(words.z), low(words.w), high(words.w)};
  }
}

__device__ float as_float(float value) {
  return value;
}
__device__ float as_float(uint16_t value) {
  return __uint_as_float(static_cast<uint32_t>(value) << 16);
}

/// Blocks take chunks of the other ranks' parts in turn, from one rank after the other, each rank beginning with its
/// neighbour: so every link carries something all the time. T: float, or uint16_t for bf16.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    fetch_parts_kernel(float* x, const float* from, const __grid_constant__ PeerParts parts,
                       const __grid_constant__ PeerWindow window, int64_t chunks_of_rank) {
  constexpr int kValues = kWide / static_cast<int>(sizeof(T));
  constexpr int64_t kChunk = int64_t{kThreads} * kEach * kValues;
  const int others = window.n_ranks - 1;
  for (int64_t c = blockIdx.x; c < chunks_of_rank * others; c += gridDim.x) {
    const int rank = (window.rank + 1 + static_cast<int>(c % others)) % window.n_ranks;
    const int64_t begin = parts.begin[rank], count = parts.begin[rank + 1] - begin;
    const int64_t first = c / others * kChunk, end = min(first + kChunk, count);
    if (first >= end) continue;
    const auto* const source = reinterpret_cast<const T*>(
        window.base[rank] + (reinterpret_cast<const char*>(from + begin) - window.base[window.rank]));
    float* const to = x + begin;
    const bool wide = reinterpret_cast<uintptr_t>(source) % kWide == 0 && reinterpret_cast<uintptr_t>(to) % kWide == 0;
    const int64_t whole = wide ? first + (end - first) / kValues * kValues : first;
    uint4 words[kEach];
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int64_t i = first + (int64_t{e} * kThreads + threadIdx.x) * kValues;
      if (i < whole) words[e] = *reinterpret_cast<const uint4*>(source + i);
    }
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int64_t i = first + (int64_t{e} * kThreads + threadIdx.x) * kValues;
      if (i < whole) store_as_floats<T>(to + i, words[e]);
    }
    for (int64_t i = whole + threadIdx.x; i < end; i += kThreads) to[i] = as_float(source[i]);
  }
}

template <typename T>
void launch(float* x, const float* from, const PeerParts& parts, const PeerWindow& window, cudaStream_t stream) {
  DT_CHECK(window.n_ranks >= 1 && window.n_ranks <= kMaxPeerRanks, "fetch_parts: {} ranks; a window holds 1 to {}",
           window.n_ranks, kMaxPeerRanks);
  int64_t longest = 0;
  for (int r = 0; r < window.n_ranks; ++r) {
    if (r != window.rank) longest = std::max(longest, parts.begin[r + 1] - parts.begin[r]);
  }
  if (longest == 0) return;
  constexpr int64_t kChunk = int64_t{kThreads} * kEach * (kWide / static_cast<int64_t>(sizeof(T)));
  const int64_t chunks = (longest + kChunk - 1) / kChunk;
  const int64_t blocks = std::min(chunks * (window.n_ranks - 1), kMostBlocks);
  fetch_parts_kernel<T><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(x, from, parts, window, chunks);
  check_launch("fetch_parts_kernel");
}

}  // namespace

void fetch_parts(float* x, const PeerParts& parts, const PeerWindow& window, cudaStream_t stream) {
  launch<float>(x, x, parts, window, stream);
}

void fetch_rounded_parts(float* x, const float* rounded, const PeerParts& parts, const PeerWindow& window,
                         cudaStream_t stream) {
  launch<uint16_t>(x, rounded, parts, window, stream);
}

}  // namespace deeptitan::cuda
