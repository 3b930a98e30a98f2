#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/permute/padding.cuh"
#include "kernels/cuda/permute/permute.h"

namespace deeptitan::cuda {

namespace {

constexpr int kMostThreads = 256;
constexpr int kUnroll = 4;  // wide loads in flight a thread

/// Blocks below map.tokens copy a token to its K rows, the others clear padding. Moved as bytes: `words` of Word a row.
template <typename Word>
__global__ void __launch_bounds__(kMostThreads)
    permute_rows_kernel(Word* __restrict__ out, const Word* __restrict__ x, RowMap map, int64_t words) {
  const int64_t block = blockIdx.x;
  if (block >= map.tokens) {
    for_each_padding_row(map, block - map.tokens, [&](int64_t row) {
      for (int64_t w = threadIdx.x; w < words; w += blockDim.x) out[row * words + w] = Word{};
    });
    return;
  }
  const Word* token = x + block * words;
  const int32_t* rows = map.row_of_slot + block * map.top_k;
  for (int64_t begin = threadIdx.x; begin < words; begin += kUnroll * blockDim.x) {
    Word value[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int64_t w = begin + i * blockDim.x;
      if (w < words) value[i] = token[w];
    }
    for (int k = 0; k < map.top_k; ++k) {
      const int64_t row = rows[k];
      if (row < 0) continue;
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const int64_t w = begin + i * blockDim.x;
        if (w < words) __stcs(out + row * words + w, value[i]);  // nothing of the rows is read back soon
      }
    }
  }
}

template <typename Word>
void launch(void* out, const void* x, const RowMap& map, int64_t row_bytes, cudaStream_t stream) {
  const int64_t blocks = map.tokens + padding_blocks(map);
  DT_CHECK(blocks < (int64_t{1} << 31), "permute_rows: {} tokens and {} rows are more than one launch holds",
           map.tokens, map.rows);
  // As many threads as leave each with kUnroll words of a row, where a block holds them.
  const int64_t words = row_bytes / static_cast<int64_t>(sizeof(Word));
  const int64_t wanted = (words + kUnroll * kWarp - 1) / (kUnroll * kWarp) * kWarp;
  const auto threads = static_cast<unsigned>(std::min<int64_t>(wanted, kMostThreads));
  permute_rows_kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(static_cast<Word*>(out),
                                                                             static_cast<const Word*>(x), map, words);
  check_launch("permute_rows_kernel");
}

template <typename T>
void permute_rows_of(T* out, const T* x, const RowMap& map, int64_t hidden, cudaStream_t stream) {
  if (map.rows == 0 || hidden == 0) return;
  const bool vector = chunks_are_aligned(out, hidden) && chunks_are_aligned(x, hidden);
  if (vector) {
    launch<uint4>(out, x, map, hidden * static_cast<int64_t>(sizeof(T)), stream);
  } else {
    launch<std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>>(out, x, map,
                                                                   hidden * static_cast<int64_t>(sizeof(T)), stream);
  }
}

}  // namespace

void permute_rows(float* out, const float* x, const RowMap& map, int64_t hidden, cudaStream_t stream) {
  permute_rows_of(out, x, map, hidden, stream);
}
void permute_rows(bfloat16* out, const bfloat16* x, const RowMap& map, int64_t hidden, cudaStream_t stream) {
  permute_rows_of(out, x, map, hidden, stream);
}

}  // namespace deeptitan::cuda
