#include "kernels/cuda/virtual_ranks.h"

#include "kernels/cuda/all_to_all/exchange.cuh"
#include "kernels/cuda/barrier/barrier.cuh"
#include "kernels/cuda/error.h"

namespace deeptitan::cuda {
namespace {

using SmallRing = BulkRing<1024, 4, 3>;

template <typename Ring>
__global__ void __launch_bounds__(256, 1) virtual_all_to_all_kernel(const AllToAllArguments* arguments) {
  extern __shared__ __align__(128) char shared[];
  exchange_block<Ring>(arguments[blockIdx.y], static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x), shared);
}

template <BarrierOrder kOrder>
__global__ void virtual_barrier_kernel(const BarrierArguments* arguments) {
  barrier_block<kOrder>(arguments[blockIdx.x]);
}

__global__ void barrier_rounds_kernel(const BarrierArguments* arguments, int rounds, uint32_t* values,
                                      uint32_t* mismatches) {
  const BarrierArguments& a = arguments[blockIdx.x];
  const int n_ranks = static_cast<int>(gridDim.x);
  for (int round = 1; round <= rounds; ++round) {
    if (threadIdx.x == 0) values[blockIdx.x] = static_cast<uint32_t>(round);
    barrier_block<BarrierOrder::kAcquireRelease>(a);
    __syncthreads();
    for (int p = static_cast<int>(threadIdx.x); p < n_ranks; p += static_cast<int>(blockDim.x)) {
      if (values[p] != static_cast<uint32_t>(round)) atomicAdd(mismatches, 1u);
    }
    barrier_block<BarrierOrder::kAcquireRelease>(a);
    __syncthreads();
  }
}

__device__ uint32_t hash(uint32_t seed, int64_t i) {
  uint64_t x = (static_cast<uint64_t>(seed) << 40) ^ static_cast<uint64_t>(i);
  x = (x ^ x >> 31) * 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9ull;
  return static_cast<uint32_t>(x >> 32);
}

__global__ void fill_words_kernel(uint32_t* data, int64_t count, uint32_t seed) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    data[i] = hash(seed, i);
  }
}

__global__ void count_mismatches_kernel(const uint32_t* data, int64_t count, uint32_t seed,
                                        unsigned long long* mismatches) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  unsigned long long wrong = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    wrong += data[i] != hash(seed, i);
  }
  if (wrong != 0) atomicAdd(mismatches, wrong);
}

}  // namespace

void launch_virtual_all_to_all(const AllToAllArguments* arguments, int n_ranks, int blocks, bool bulk,
                               cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(n_ranks));
  if (bulk) {
    virtual_all_to_all_kernel<SmallRing><<<grid, 256, SmallRing::kBytes, stream>>>(arguments);
  } else {
    virtual_all_to_all_kernel<void><<<grid, 256, 0, stream>>>(arguments);
  }
  check_launch("virtual_all_to_all_kernel");
}

void launch_virtual_barrier(const BarrierArguments* arguments, int n_ranks, BarrierOrder order, cudaStream_t stream) {
  const int threads = (n_ranks + 31) / 32 * 32;
  if (order == BarrierOrder::kAcquireRelease) {
    virtual_barrier_kernel<BarrierOrder::kAcquireRelease><<<n_ranks, threads, 0, stream>>>(arguments);
  } else {
    virtual_barrier_kernel<BarrierOrder::kRelaxed><<<n_ranks, threads, 0, stream>>>(arguments);
  }
  check_launch("virtual_barrier_kernel");
}

void launch_barrier_rounds(const BarrierArguments* arguments, int n_ranks, int rounds, uint32_t* values,
                           uint32_t* mismatches, cudaStream_t stream) {
  const int threads = (n_ranks + 31) / 32 * 32;
  barrier_rounds_kernel<<<n_ranks, threads, 0, stream>>>(arguments, rounds, values, mismatches);
  check_launch("barrier_rounds_kernel");
}

void fill_words(uint32_t* data, int64_t count, uint32_t seed, cudaStream_t stream) {
  fill_words_kernel<<<1024, 256, 0, stream>>>(data, count, seed);
  check_launch("fill_words_kernel");
}

void count_mismatches(const uint32_t* data, int64_t count, uint32_t seed, unsigned long long* mismatches,
                      cudaStream_t stream) {
  count_mismatches_kernel<<<1024, 256, 0, stream>>>(data, count, seed, mismatches);
  check_launch("count_mismatches_kernel");
}

}  // namespace deeptitan::cuda
