#include <algorithm>

#include "kernels/cuda/error.h"
#include "kernels/cuda/permute/permute.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1024;

/// What lies before word `begin` and from word `end` on, in turn over all threads.
template <typename Word>
__global__ void __launch_bounds__(kThreads)
    clear_rows_outside_kernel(Word* x, const int32_t* first, const int32_t* last, int64_t words, int64_t row_words) {
  const int64_t begin = *first * row_words, end = *last * row_words;
  const int64_t outside = words - (end - begin);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < outside;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    x[i < begin ? i : i - begin + end] = Word{};
  }
}

template <typename Word>
void launch(void* x, const int32_t* first, const int32_t* last, int64_t bytes, int64_t row_bytes, cudaStream_t stream) {
  constexpr int64_t kWord = sizeof(Word);
  const int64_t words = bytes / kWord;
  const auto blocks = static_cast<unsigned>(std::min((words + kThreads - 1) / kThreads, kMostBlocks));
  clear_rows_outside_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<Word*>(x), first, last, words,
                                                             row_bytes / kWord);
  check_launch("clear_rows_outside_kernel");
}

}  // namespace

void clear_rows_outside(void* x, const int32_t* first, const int32_t* last, int64_t rows, int64_t row_bytes,
                        cudaStream_t stream) {
  const int64_t bytes = rows * row_bytes;
  if (bytes == 0) return;
  if (row_bytes % 16 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0) {
    return launch<uint4>(x, first, last, bytes, row_bytes, stream);
  }
  launch<uint16_t>(x, first, last, bytes, row_bytes, stream);
}

}  // namespace deeptitan::cuda
