#include "core/error.h"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/permute/padding.cuh"
#include "kernels/cuda/permute/permute.h"
#include "kernels/cuda/warp.cuh"
#include "kernels/exact_math.h"
#include "kernels/row_dot.h"

namespace deeptitan::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kUnroll = 8;  // rows in flight a thread

/// Block (x, y) sums the y-th part of token x: a thread has one chunk of columns.
template <typename T, bool kVector>
__global__ void __launch_bounds__(kThreads)
    unpermute_rows_kernel(T* out, const T* __restrict__ y, const float* __restrict__ weight, const T* addend,
                          RowMap map, int64_t hidden) {
  const int64_t token = blockIdx.x;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kChunk;
  if (column >= hidden) return;
  const int n = static_cast<int>(min(hidden - column, static_cast<int64_t>(kChunk)));
  const int64_t first_slot = token * map.top_k;
  const int64_t offset = token * hidden + column;
  FetchedChunk<T, kVector> extra;
  extra.fetch(addend + offset, addend != nullptr ? n : 0);
  float sum[kChunk] = {};
  for (int begin = 0; begin < map.top_k; begin += kUnroll) {
    FetchedChunk<T, kVector> fetched[kUnroll];
    int32_t row[kUnroll];
    float w[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) row[i] = begin + i < map.top_k ? map.row_of_slot[first_slot + begin + i] : -1;
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) fetched[i].fetch(y + row[i] * hidden + column, row[i] >= 0 ? n : 0);
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) w[i] = weight != nullptr && row[i] >= 0 ? weight[first_slot + begin + i] : 1.0f;
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      float value[kChunk];
      fetched[i].unpack(value);
      if (row[i] < 0) continue;
#pragma unroll
      for (int j = 0; j < kChunk; ++j) sum[j] = exact_fma(w[i], value[j], sum[j]);
    }
  }
  if (addend != nullptr) {
    float value[kChunk];
    extra.unpack(value);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) sum[j] = exact_add(sum[j], value[j]);
  }
  store_chunk(out + offset, sum, n, kVector);
}

constexpr int kBackwardThreads = 256;
constexpr int kSlotsOfBlock = kBackwardThreads / kWarp;
constexpr int kBackwardUnroll = 4;

/// A warp a slot, neighbouring slots in one block so that their token's gradient comes from the nearest cache. Blocks
/// past the slots clear padding. d_y may be y: each element is read and written by one thread, in this order.
template <typename T, bool kVector>
__global__ void __launch_bounds__(kBackwardThreads)
    unpermute_rows_backward_kernel(T* d_y, float* __restrict__ d_weight, const T* __restrict__ d_out, const T* y,
                                   const float* __restrict__ weight, RowMap map, int64_t hidden) {
  static_assert(kDotLanes == kWarp && kDotSumsPerLane == kChunk && kDotSums == kWarp * kChunk);
  const int64_t slots = map.tokens * map.top_k;
  const int64_t slot_blocks = (slots + kSlotsOfBlock - 1) / kSlotsOfBlock;
  const auto elements_at = [hidden](int64_t column) {
    return static_cast<int>(max(min(hidden - column, static_cast<int64_t>(kChunk)), int64_t{0}));
  };
  if (blockIdx.x >= slot_blocks) {
    for_each_padding_row(map, blockIdx.x - slot_blocks, [&](int64_t row) {
      const float zeros[kChunk] = {};
      for (int64_t column = threadIdx.x * kChunk; column < hidden; column += kBackwardThreads * kChunk) {
        store_chunk(d_y + row * hidden + column, zeros, elements_at(column), kVector);
      }
    });
    return;
  }
  const int lane = threadIdx.x % kWarp;
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * kSlotsOfBlock + threadIdx.x / kWarp;
  if (slot >= slots) return;
  const int64_t row = map.row_of_slot[slot];
  if (row < 0) {
    if (d_weight != nullptr && lane == 0) d_weight[slot] = 0.0f;
    return;
  }
  const T* token = d_out + slot / map.top_k * hidden;
  const float w = weight != nullptr ? weight[slot] : 1.0f;
  const bool with_dot = d_weight != nullptr;
  float sum[kChunk] = {};
  for (int64_t begin = lane * kChunk; begin < hidden; begin += kBackwardUnroll * kDotSums) {
    FetchedChunk<T, kVector> gradients[kBackwardUnroll], values[kBackwardUnroll];
#pragma unroll
    for (int i = 0; i < kBackwardUnroll; ++i) {
      const int64_t column = begin + i * kDotSums;
      gradients[i].fetch(token + column, elements_at(column));
      values[i].fetch(y + row * hidden + column, with_dot ? elements_at(column) : 0);
    }
#pragma unroll
    for (int i = 0; i < kBackwardUnroll; ++i) {
      const int64_t column = begin + i * kDotSums;
      float gradient[kChunk], value[kChunk], scaled[kChunk];
      gradients[i].unpack(gradient);
      values[i].unpack(value);
#pragma unroll
      for (int j = 0; j < kChunk; ++j) {
        sum[j] = exact_fma(gradient[j], value[j], sum[j]);
        scaled[j] = exact_mul(w, gradient[j]);
      }
      const int n = elements_at(column);
      if (n > 0) store_chunk(d_y + row * hidden + column, scaled, n, kVector);
    }
  }
  if (!with_dot) return;
  float lane_sum = sum[0];
#pragma unroll
  for (int j = 1; j < kChunk; ++j) lane_sum = exact_add(lane_sum, sum[j]);
  lane_sum = warp_sum(lane_sum);
  if (lane == 0) d_weight[slot] = lane_sum;
}

template <typename T>
void unpermute_rows_of(T* out, const T* y, const float* weight, const T* addend, const RowMap& map, int64_t hidden,
                       cudaStream_t stream) {
  if (map.tokens == 0 || hidden == 0) return;
  DT_CHECK(map.tokens < (int64_t{1} << 31), "unpermute_rows: {} tokens are more than one launch holds", map.tokens);
  const bool vector = chunks_are_aligned(out, hidden) && chunks_are_aligned(y, hidden) &&
                      (addend == nullptr || chunks_are_aligned(addend, hidden));
  constexpr int64_t kColumnsOfBlock = kThreads * kChunk;
  const dim3 grid(static_cast<unsigned>(map.tokens),
                  static_cast<unsigned>((hidden + kColumnsOfBlock - 1) / kColumnsOfBlock));
  const auto kernel = vector ? unpermute_rows_kernel<T, true> : unpermute_rows_kernel<T, false>;
  kernel<<<grid, kThreads, 0, stream>>>(out, y, weight, addend, map, hidden);
  check_launch("unpermute_rows_kernel");
}

template <typename T>
void unpermute_rows_backward_of(T* d_y, float* d_weight, const T* d_out, const T* y, const float* weight,
                                const RowMap& map, int64_t hidden, cudaStream_t stream) {
  if ((map.tokens == 0 && map.rows == 0) || hidden == 0) return;
  const int64_t slots = map.tokens * map.top_k;
  const int64_t blocks = (slots + kSlotsOfBlock - 1) / kSlotsOfBlock + padding_blocks(map);
  DT_CHECK(blocks < (int64_t{1} << 31), "unpermute_rows_backward: {} slots and {} rows are more than one launch holds",
           slots, map.rows);
  const bool vector = chunks_are_aligned(d_y, hidden) && chunks_are_aligned(d_out, hidden) &&
                      (y == nullptr || chunks_are_aligned(y, hidden));
  const auto kernel = vector ? unpermute_rows_backward_kernel<T, true> : unpermute_rows_backward_kernel<T, false>;
  kernel<<<static_cast<unsigned>(blocks), kBackwardThreads, 0, stream>>>(d_y, d_weight, d_out, y, weight, map, hidden);
  check_launch("unpermute_rows_backward_kernel");
}

}  // namespace

void unpermute_rows(float* out, const float* y, const float* weight, const float* addend, const RowMap& map,
                    int64_t hidden, cudaStream_t stream) {
  unpermute_rows_of(out, y, weight, addend, map, hidden, stream);
}
void unpermute_rows(bfloat16* out, const bfloat16* y, const float* weight, const bfloat16* addend, const RowMap& map,
                    int64_t hidden, cudaStream_t stream) {
  unpermute_rows_of(out, y, weight, addend, map, hidden, stream);
}

void unpermute_rows_backward(float* d_y, float* d_weight, const float* d_out, const float* y, const float* weight,
                             const RowMap& map, int64_t hidden, cudaStream_t stream) {
  unpermute_rows_backward_of(d_y, d_weight, d_out, y, weight, map, hidden, stream);
}
void unpermute_rows_backward(bfloat16* d_y, float* d_weight, const bfloat16* d_out, const bfloat16* y,
                             const float* weight, const RowMap& map, int64_t hidden, cudaStream_t stream) {
  unpermute_rows_backward_of(d_y, d_weight, d_out, y, weight, map, hidden, stream);
}

}  // namespace deeptitan::cuda
