#include "core/error.h"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/permute/padding.cuh"
#include "kernels/cuda/permute/permute.h"
#include "kernels/cuda/permute/weighted_rows.cuh"

namespace deeptitan::cuda {

namespace {

template <typename T, bool kVector>
__global__ void __launch_bounds__(kWeightedRowsThreads)
    unpermute_rows_kernel(T* out, const T* __restrict__ y, const float* __restrict__ weight, const T* addend,
                          const T* residual, RowMap map, int64_t hidden) {
  add_up_rows<T, kVector>(out, weight, addend, residual, map.row_of_slot, static_cast<int>(map.top_k), hidden,
                          [&](int32_t row) { return y + row * hidden; });
}

constexpr int kBackwardThreads = 256;
constexpr int kSlotsOfBlock = kBackwardThreads / kWarp;

/// A warp a slot, neighbouring slots in one block so that their token's gradient comes from the nearest cache. Blocks
/// past the slots clear padding. d_y may be y: each element is read and written by one thread, in this order.
template <typename T, bool kVector>
__global__ void __launch_bounds__(kBackwardThreads)
    unpermute_rows_backward_kernel(T* d_y, float* __restrict__ d_weight, const T* __restrict__ d_out, const T* y,
                                   const float* __restrict__ weight, RowMap map, int64_t hidden) {
  const int64_t slots = map.tokens * map.top_k;
  const int64_t slot_blocks = (slots + kSlotsOfBlock - 1) / kSlotsOfBlock;
  if (blockIdx.x >= slot_blocks) {
    for_each_padding_row(map, blockIdx.x - slot_blocks, [&](int64_t row) {
      const float zeros[kChunk] = {};
      for (int64_t column = threadIdx.x * kChunk; column < hidden; column += kBackwardThreads * kChunk) {
        const auto n = static_cast<int>(min(hidden - column, static_cast<int64_t>(kChunk)));
        store_chunk(d_y + row * hidden + column, zeros, n, kVector);
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
  const float dot =
      weighted_row_backward<T, kVector>(d_y + row * hidden, d_out + slot / map.top_k * hidden, y + row * hidden,
                                        weight != nullptr ? weight[slot] : 1.0f, d_weight != nullptr, hidden);
  if (d_weight != nullptr && lane == 0) d_weight[slot] = dot;
}

template <typename T>
void unpermute_rows_of(T* out, const T* y, const float* weight, const T* addend, const T* residual, const RowMap& map,
                       int64_t hidden, cudaStream_t stream) {
  if (map.tokens == 0 || hidden == 0) return;
  DT_CHECK(map.tokens < (int64_t{1} << 31), "unpermute_rows: {} tokens are more than one launch holds", map.tokens);
  const bool vector = chunks_are_aligned(out, hidden) && chunks_are_aligned(y, hidden) &&
                      (addend == nullptr || chunks_are_aligned(addend, hidden)) &&
                      (residual == nullptr || chunks_are_aligned(residual, hidden));
  const auto kernel = vector ? unpermute_rows_kernel<T, true> : unpermute_rows_kernel<T, false>;
  kernel<<<weighted_rows_grid(map.tokens, hidden), kWeightedRowsThreads, 0, stream>>>(out, y, weight, addend, residual,
                                                                                      map, hidden);
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

void unpermute_rows(float* out, const float* y, const float* weight, const float* addend, const float* residual,
                    const RowMap& map, int64_t hidden, cudaStream_t stream) {
  unpermute_rows_of(out, y, weight, addend, residual, map, hidden, stream);
}
void unpermute_rows(bfloat16* out, const bfloat16* y, const float* weight, const bfloat16* addend,
                    const bfloat16* residual, const RowMap& map, int64_t hidden, cudaStream_t stream) {
  unpermute_rows_of(out, y, weight, addend, residual, map, hidden, stream);
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
