#include <algorithm>

#include "kernels/cuda/error.h"
#include "kernels/cuda/rank_sum/rank_sum.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 4;  // elements of a thread, whose loads are on their way together

// In T's own arithmetic, one rounding an addition.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_in_rank_order_kernel(T* sum, const T* __restrict__ parts, int64_t stride, int ranks, int own, int64_t n) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads * kEach + threadIdx.x;
  T total[kEach];
  for (int r = 0; r < ranks; ++r) {
    const T* x = r == own ? sum : parts + r * stride;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int64_t i = first + e * kThreads;
      if (i < n) total[e] = r == 0 ? x[i] : total[e] + x[i];
    }
  }
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int64_t i = first + e * kThreads;
    if (i < n) sum[i] = total[e];
  }
}

template <typename T>
void launch(T* sum, const T* parts, int64_t stride, int ranks, int own, int64_t n, cudaStream_t stream) {
  // As many blocks as a launch can have at most, each time.
  constexpr int64_t kMost = (int64_t{1} << 30) * kThreads * kEach;
  for (int64_t begin = 0; begin < n; begin += kMost) {
    const int64_t count = std::min(kMost, n - begin);
    const auto blocks = static_cast<unsigned>((count + kThreads * kEach - 1) / (kThreads * kEach));
    add_in_rank_order_kernel<T><<<blocks, kThreads, 0, stream>>>(sum + begin, parts + begin, stride, ranks, own, count);
    check_launch("add_in_rank_order_kernel");
  }
}

}  // namespace

void add_in_rank_order(float* sum, const float* parts, int64_t stride, int ranks, int own, int64_t n,
                       cudaStream_t stream) {
  launch(sum, parts, stride, ranks, own, n, stream);
}

void add_in_rank_order(double* sum, const double* parts, int64_t stride, int ranks, int own, int64_t n,
                       cudaStream_t stream) {
  launch(sum, parts, stride, ranks, own, n, stream);
}

void add_in_rank_order(int32_t* sum, const int32_t* parts, int64_t stride, int ranks, int own, int64_t n,
                       cudaStream_t stream) {
  launch(sum, parts, stride, ranks, own, n, stream);
}

}  // namespace deeptitan::cuda
