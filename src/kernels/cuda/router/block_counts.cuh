#pragma once

#include "kernels/cuda/router/router_arguments.h"

namespace deeptitan::cuda {

/// Ends a kernel: adds up the counts of all blocks, which call it with every thread. Each expert has one 64-bit word in
/// the workspace, the blocks that have added theirs above kCountBits and the sum below (integers: their order does not
/// show), so whoever completes the sum knows it from the addition itself, moves it out and leaves a zero. One block
/// needs none.
template <int kThreads>
__device__ void add_up_counts(const RouterArguments& a, const int32_t* counts_of_block, int experts) {
  constexpr int kCountBits = 40;
  constexpr unsigned long long kOneBlock = 1ull << kCountBits;
  __syncthreads();
  if (gridDim.x == 1) {
    for (int e = threadIdx.x; e < experts; e += kThreads) a.counts[e] = counts_of_block[e];
    return;
  }
  for (int e = threadIdx.x; e < experts; e += kThreads) {
    const unsigned long long addend = kOneBlock + counts_of_block[e];
    const unsigned long long sum = atomicAdd(&a.workspace[e], addend) + addend;
    if (sum >> kCountBits == gridDim.x) {
      a.counts[e] = static_cast<int32_t>(sum & (kOneBlock - 1));
      a.workspace[e] = 0;
    }
  }
}

}  // namespace deeptitan::cuda
