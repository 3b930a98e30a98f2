#include "link_copies.h"

#include <iterator>

#include "kernels/cuda/all_to_all/copy_bytes.cuh"
#include "kernels/cuda/error.h"

namespace deeptitan {
namespace {

using cuda::BulkRing;
using cuda::Chunks;
using cuda::CopyRange;

/// The part of a copy that falls to this block.
__device__ CopyRange share_of_block(char* to, const char* from, int64_t bytes) {
  const int64_t begin = bytes * blockIdx.x / gridDim.x / 128 * 128;
  const int64_t end = blockIdx.x + 1 == gridDim.x ? bytes : bytes * (blockIdx.x + 1) / gridDim.x / 128 * 128;
  return {to + begin, from + begin, end - begin};
}

template <int kUnroll>
__global__ void __launch_bounds__(512) copy_by_threads_kernel(char* to, const char* from, int64_t bytes) {
  cuda::copy_range<kUnroll>(share_of_block(to, from, bytes), static_cast<int>(threadIdx.x),
                            static_cast<int>(blockDim.x));
}

#if __CUDA_ARCH__ >= 900
/// A walk (kernels/cuda/all_to_all/copy_bytes.cuh) over ranges `step` bytes apart, each `range.bytes` long or what is
/// left of it.
struct CopyWalk {
  using Part = CopyRange;
  CopyRange range;
  int64_t at;
  int64_t step;
  int64_t end;

  __device__ bool next(Part& part) {
    if (at >= end) return false;
    part = {range.to + at, range.from + at, min(range.bytes, end - at)};
    at += step;
    return true;
  }
  __device__ const char* source(const Part& part) const { return part.from; }
  __device__ char* target(const Part& part) const { return part.to; }
};
#endif

/// in_turn: chunks of the whole copy in turn over the blocks, so that all blocks work close together in memory.
template <typename Ring, bool in_turn>
__global__ void copy_in_bulk_kernel(char* to, const char* from, int64_t bytes) {
  extern __shared__ __align__(128) char shared[];
#if __CUDA_ARCH__ >= 900
  constexpr int64_t kChunk = Ring::kChunkBytes;
  const CopyRange share = share_of_block(to, from, bytes);
  const CopyWalk walk = in_turn ? CopyWalk{{to, from, kChunk}, blockIdx.x * kChunk, gridDim.x * kChunk, bytes}
                                : CopyWalk{share, 0, share.bytes, share.bytes};
  Chunks<CopyWalk, Ring::kChunkBytes> loads(walk);
  Chunks<CopyWalk, Ring::kChunkBytes> stores(walk);
  Ring ring(shared);
  ring.start(loads, stores);
  ring.finish(loads, stores);
#endif
}

template <int kUnroll>
void copy_by_threads(char* to, const char* from, int64_t bytes, int blocks, cudaStream_t stream) {
  copy_by_threads_kernel<kUnroll><<<blocks, 512, 0, stream>>>(to, from, bytes);
  cuda::check_launch("copy_by_threads_kernel");
}

template <int kChunk, int kStages, int kInFlight, bool in_turn>
void copy_in_bulk(char* to, const char* from, int64_t bytes, int blocks, cudaStream_t stream) {
  using Ring = BulkRing<kChunk, kStages, kInFlight>;
  DT_CUDA_CHECK(cudaFuncSetAttribute(copy_in_bulk_kernel<Ring, in_turn>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(Ring::kBytes)));
  copy_in_bulk_kernel<Ring, in_turn><<<blocks, 1, Ring::kBytes, stream>>>(to, from, bytes);
  cuda::check_launch("copy_in_bulk_kernel");
}

#define DT_WAYS(name, launch)                                                      \
  {name, 8, launch}, {name, 16, launch}, {name, 32, launch}, {name, 64, launch}, { \
    name, 132, launch                                                              \
  }

constexpr LinkCopyWay kWays[] = {
    DT_WAYS("threads, 8 loads", copy_by_threads<8>),
    DT_WAYS("bulk 8 KiB x 8, 6 loading", (copy_in_bulk<8192, 8, 6, false>)),
    DT_WAYS("bulk 16 KiB x 8, 6 loading", (copy_in_bulk<16384, 8, 6, false>)),
    DT_WAYS("in turn 4 KiB x 16, 12 loading", (copy_in_bulk<4096, 16, 12, true>)),
    DT_WAYS("in turn 16 KiB x 8, 6 loading", (copy_in_bulk<16384, 8, 6, true>)),
    DT_WAYS("in turn 16 KiB x 8, 2 loading", (copy_in_bulk<16384, 8, 2, true>)),
};

__global__ void fill_hash_kernel(uint32_t* data, int64_t count, uint32_t seed) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    uint64_t x = (static_cast<uint64_t>(seed) << 40 ^ static_cast<uint64_t>(i)) * 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9ull;
    data[i] = static_cast<uint32_t>(x >> 32);
  }
}

}  // namespace

int link_copy_ways(const LinkCopyWay** ways) {
  *ways = kWays;
  return static_cast<int>(std::size(kWays));
}

void fill_hash(uint32_t* data, int64_t count, uint32_t seed, cudaStream_t stream) {
  fill_hash_kernel<<<1024, 256, 0, stream>>>(data, count, seed);
  cuda::check_launch("fill_hash_kernel");
}

}  // namespace deeptitan
