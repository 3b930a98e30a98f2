#include <algorithm>
#include <type_traits>

#include "core/error.h"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/expert_rows/expert_rows.h"
#include "kernels/cuda/permute/weighted_rows.cuh"
#include "kernels/cuda/warp.cuh"

namespace deeptitan::cuda {
namespace {

/// What a rank's address in the window is on the rank that a place names; and the row there.
struct PlacedRow {
  int32_t rank;
  int64_t row;
};
__device__ PlacedRow placed_row(int32_t place, int32_t capacity) {
  const int32_t rank = place / capacity;
  return {rank, place - rank * capacity};
}
template <typename T>
__device__ T* at_peer(T* mine, const PeerWindow& window, int32_t rank) {
  const int64_t offset = reinterpret_cast<uintptr_t>(mine) - reinterpret_cast<uintptr_t>(window.base[window.rank]);
  return reinterpret_cast<T*>(window.base[rank] + offset);
}

constexpr int kMostThreads = 256;
constexpr int kPushUnroll = 4;  // wide loads in flight a thread

/// A block a token, which is moved as bytes: `words` of Word a row.
template <typename Word>
__global__ void __launch_bounds__(kMostThreads)
    push_rows_kernel(Word* rows, float* row_weight, const Word* __restrict__ x, const float* __restrict__ weight,
                     PlacedSlots slots, const __grid_constant__ PeerWindow window, int64_t words) {
  const int64_t token = blockIdx.x;
  const int32_t* places = slots.place + token * slots.top_k;
  const auto capacity = static_cast<int32_t>(slots.capacity);
  if (row_weight != nullptr) {
    for (int k = static_cast<int>(threadIdx.x); k < slots.top_k; k += static_cast<int>(blockDim.x)) {
      if (places[k] < 0) continue;
      const PlacedRow to = placed_row(places[k], capacity);
      at_peer(row_weight, window, to.rank)[to.row] = weight[token * slots.top_k + k];
    }
  }
  const Word* from = x + token * words;
  for (int64_t begin = threadIdx.x; begin < words; begin += kPushUnroll * blockDim.x) {
    Word value[kPushUnroll];
#pragma unroll
    for (int i = 0; i < kPushUnroll; ++i) {
      const int64_t w = begin + i * blockDim.x;
      if (w < words) value[i] = from[w];
    }
    for (int k = 0; k < slots.top_k; ++k) {
      if (places[k] < 0) continue;
      const PlacedRow to = placed_row(places[k], capacity);
      Word* row = at_peer(rows, window, to.rank) + to.row * words;
#pragma unroll
      for (int i = 0; i < kPushUnroll; ++i) {
        const int64_t w = begin + i * blockDim.x;
        if (w < words) __stcs(row + w, value[i]);
      }
    }
  }
}

template <typename Word>
void launch_push(void* rows, float* row_weight, const void* x, const float* weight, const PlacedSlots& slots,
                 const PeerWindow& window, int64_t row_bytes, cudaStream_t stream) {
  const int64_t words = row_bytes / static_cast<int64_t>(sizeof(Word));
  const int64_t wanted = (words + kPushUnroll * kWarp - 1) / (kPushUnroll * kWarp) * kWarp;
  const auto threads = static_cast<unsigned>(std::min<int64_t>(wanted, kMostThreads));
  push_rows_kernel<<<static_cast<unsigned>(slots.tokens), threads, 0, stream>>>(
      static_cast<Word*>(rows), row_weight, static_cast<const Word*>(x), weight, slots, window, words);
  check_launch("push_rows_kernel");
}

template <typename T>
void push_rows_of(T* rows, float* row_weight, const T* x, const float* weight, const PlacedSlots& slots,
                  const PeerWindow& window, int64_t hidden, cudaStream_t stream) {
  if (slots.tokens == 0 || slots.capacity == 0) return;
  const int64_t row_bytes = hidden * static_cast<int64_t>(sizeof(T));
  if (chunks_are_aligned(rows, hidden) && chunks_are_aligned(x, hidden)) {
    return launch_push<uint4>(rows, row_weight, x, weight, slots, window, row_bytes, stream);
  }
  launch_push<std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>>(rows, row_weight, x, weight, slots, window,
                                                                      row_bytes, stream);
}

template <typename T, bool kVector>
__global__ void __launch_bounds__(kWeightedRowsThreads)
    pull_rows_kernel(T* out, const T* rows, const float* __restrict__ weight, const T* addend, PlacedSlots slots,
                     const __grid_constant__ PeerWindow window, int64_t hidden) {
  const T* const no_residual = nullptr;
  add_up_rows<T, kVector>(out, weight, addend, no_residual, slots.place, static_cast<int>(slots.top_k), hidden,
                          [&](int32_t place) {
                            const PlacedRow from = placed_row(place, static_cast<int32_t>(slots.capacity));
                            return at_peer(rows, window, from.rank) + from.row * hidden;
                          });
}

template <typename T>
void pull_rows_of(T* out, const T* rows, const float* weight, const T* addend, const PlacedSlots& slots,
                  const PeerWindow& window, int64_t hidden, cudaStream_t stream) {
  if (slots.tokens == 0 || hidden == 0) return;
  const bool vector = chunks_are_aligned(out, hidden) && chunks_are_aligned(rows, hidden) &&
                      (addend == nullptr || chunks_are_aligned(addend, hidden));
  const auto kernel = vector ? pull_rows_kernel<T, true> : pull_rows_kernel<T, false>;
  kernel<<<weighted_rows_grid(slots.tokens, hidden), kWeightedRowsThreads, 0, stream>>>(out, rows, weight, addend,
                                                                                        slots, window, hidden);
  check_launch("pull_rows_kernel");
}

constexpr int kValueThreads = 256;

__global__ void __launch_bounds__(kValueThreads)
    pull_values_kernel(float* __restrict__ out, const float* values, PlacedSlots slots,
                       const __grid_constant__ PeerWindow window) {
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * kValueThreads + threadIdx.x;
  if (slot >= slots.tokens * slots.top_k) return;
  const int32_t place = slots.place[slot];
  const PlacedRow from = placed_row(max(place, 0), static_cast<int32_t>(slots.capacity));
  out[slot] = place < 0 ? 0.0f : at_peer(values, window, from.rank)[from.row];
}

constexpr int kWeightThreads = 256;
constexpr int kRowsOfBlock = kWeightThreads / kWarp;
constexpr int64_t kMostBlocks = 2048;

/// A warp a row.
template <typename T, bool kVector>
__global__ void __launch_bounds__(kWeightThreads)
    weight_rows_backward_kernel(T* d_rows, float* __restrict__ d_weight, const T* __restrict__ y,
                                const float* __restrict__ weight, const int32_t* __restrict__ count, int64_t hidden) {
  const int lane = threadIdx.x % kWarp;
  const int64_t rows = *count;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kRowsOfBlock;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x / kWarp; row < rows; row += step) {
    T* gradient = d_rows + row * hidden;
    const float dot =
        weighted_row_backward<T, kVector>(gradient, gradient, y + row * hidden, weight[row], true, hidden);
    if (lane == 0) d_weight[row] = dot;
  }
}

template <typename T>
void weight_rows_backward_of(T* d_rows, float* d_weight, const T* y, const float* weight, const int32_t* count,
                             int64_t capacity, int64_t hidden, cudaStream_t stream) {
  if (capacity == 0 || hidden == 0) return;
  const bool vector = chunks_are_aligned(d_rows, hidden) && chunks_are_aligned(y, hidden);
  const auto kernel = vector ? weight_rows_backward_kernel<T, true> : weight_rows_backward_kernel<T, false>;
  const int64_t blocks = std::min(kMostBlocks, (capacity + kRowsOfBlock - 1) / kRowsOfBlock);
  kernel<<<static_cast<unsigned>(blocks), kWeightThreads, 0, stream>>>(d_rows, d_weight, y, weight, count, hidden);
  check_launch("weight_rows_backward_kernel");
}

}  // namespace

void push_rows(float* rows, float* row_weight, const float* x, const float* weight, const PlacedSlots& slots,
               const PeerWindow& window, int64_t hidden, cudaStream_t stream) {
  push_rows_of(rows, row_weight, x, weight, slots, window, hidden, stream);
}
void push_rows(bfloat16* rows, float* row_weight, const bfloat16* x, const float* weight, const PlacedSlots& slots,
               const PeerWindow& window, int64_t hidden, cudaStream_t stream) {
  push_rows_of(rows, row_weight, x, weight, slots, window, hidden, stream);
}

void pull_rows(float* out, const float* rows, const float* weight, const float* addend, const PlacedSlots& slots,
               const PeerWindow& window, int64_t hidden, cudaStream_t stream) {
  pull_rows_of(out, rows, weight, addend, slots, window, hidden, stream);
}
void pull_rows(bfloat16* out, const bfloat16* rows, const float* weight, const bfloat16* addend,
               const PlacedSlots& slots, const PeerWindow& window, int64_t hidden, cudaStream_t stream) {
  pull_rows_of(out, rows, weight, addend, slots, window, hidden, stream);
}

void pull_values(float* out, const float* values, const PlacedSlots& slots, const PeerWindow& window,
                 cudaStream_t stream) {
  const int64_t count = slots.tokens * slots.top_k;
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>((count + kValueThreads - 1) / kValueThreads);
  pull_values_kernel<<<blocks, kValueThreads, 0, stream>>>(out, values, slots, window);
  check_launch("pull_values_kernel");
}

void weight_rows_backward(float* d_rows, float* d_weight, const float* y, const float* weight, const int32_t* count,
                          int64_t capacity, int64_t hidden, cudaStream_t stream) {
  weight_rows_backward_of(d_rows, d_weight, y, weight, count, capacity, hidden, stream);
}
void weight_rows_backward(bfloat16* d_rows, float* d_weight, const bfloat16* y, const float* weight,
                          const int32_t* count, int64_t capacity, int64_t hidden, cudaStream_t stream) {
  weight_rows_backward_of(d_rows, d_weight, y, weight, count, capacity, hidden, stream);
}

}  // namespace deeptitan::cuda
