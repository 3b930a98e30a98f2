#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/rank_sum/peer_sum.h"

namespace deeptitan::cuda {
namespace {

__device__ const char* at_peer(const void* mine, const PeerWindow& window, int rank) {
  return window.base[rank] + (static_cast<const char*>(mine) - window.base[window.rank]);
}

constexpr int kThreads = 512;

/// Any size and alignment.
__global__ void __launch_bounds__(kThreads)
    peer_sum_by_threads_kernel(float* x, int64_t n, const __grid_constant__ PeerWindow window) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
    float sum = reinterpret_cast<const float*>(at_peer(x, window, 0))[i];
    for (int r = 1; r < window.n_ranks; ++r) sum += reinterpret_cast<const float*>(at_peer(x, window, r))[i];
    x[i] = sum;
  }
}

constexpr int kAdders = 128;                // threads that add
constexpr int kBulkThreads = kAdders + 32;  // and a warp of which one thread loads
constexpr int kStages = 12;
constexpr int kStageBytes = 16 << 10;  // all ranks' slices of a chunk
constexpr int kSharedBytes = kStages * (kStageBytes + 2 * 8);

#if __CUDA_ARCH__ >= 900
__device__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ void wait_for_phase(uint32_t barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
  }
}
#endif

/// Chunks in turn over the blocks. One thread has the bulk copy engine load all ranks' slices of the next chunks while
/// the others add up one: a load over the link takes about two microseconds, and what is on its way takes no registers.
/// `chunk`: bytes of a rank's slice, a multiple of 16; `bytes` is one too.
__global__ void __launch_bounds__(kBulkThreads)
    peer_sum_in_bulk_kernel(float* x, int64_t bytes, int chunk, const __grid_constant__ PeerWindow window) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char shared[];
  const uint32_t loaded = shared_address(shared) + kStages * kStageBytes;  // a barrier a stage
  const uint32_t added = loaded + kStages * 8;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(loaded + 8 * s) : "memory");
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(added + 8 * s), "r"(kAdders) : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * chunk, step = static_cast<int64_t>(gridDim.x) * chunk;
  uint32_t count = 0;
  if (threadIdx.x >= kAdders) {
    if (threadIdx.x != kAdders) return;
    // What is read was acquired from its writers through the generic proxy; bulk copies act in the async proxy.
    asm volatile("fence.proxy.async;" ::: "memory");
    for (int64_t at = first; at < bytes; at += step, ++count) {
      const uint32_t stage = count % kStages;
      const auto size = static_cast<uint32_t>(min(static_cast<int64_t>(chunk), bytes - at));
      if (count >= kStages) wait_for_phase(added + 8 * stage, (count / kStages - 1) & 1);
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(loaded + 8 * stage),
                   "r"(size * window.n_ranks)
                   : "memory");
      for (int r = 0; r < window.n_ranks; ++r) {
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                         shared_address(shared) + stage * kStageBytes + r * chunk),
                     "l"(__cvta_generic_to_global(at_peer(x, window, r) + at)), "r"(size), "r"(loaded + 8 * stage)
                     : "memory");
      }
    }
    return;
  }
  for (int64_t at = first; at < bytes; at += step, ++count) {
    const uint32_t stage = count % kStages;
    const auto size = static_cast<int>(min(static_cast<int64_t>(chunk), bytes - at));
    wait_for_phase(loaded + 8 * stage, count / kStages & 1);
    const char* const slices = shared + stage * kStageBytes;
    for (int b = static_cast<int>(threadIdx.x) * 16; b < size; b += kAdders * 16) {
      float4 sum = *reinterpret_cast<const float4*>(slices + b);
      for (int r = 1; r < window.n_ranks; ++r) {
        const float4 next = *reinterpret_cast<const float4*>(slices + r * chunk + b);
        sum.x += next.x;
        sum.y += next.y;
        sum.z += next.z;
        sum.w += next.w;
      }
      *reinterpret_cast<float4*>(reinterpret_cast<char*>(x) + at + b) = sum;
    }
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(added + 8 * stage) : "memory");  // for its own reads
  }
#endif
}

bool has_bulk_copies() {
  int device = 0, major = 0;
  DT_CUDA_CHECK(cudaGetDevice(&device));
  DT_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major >= 9;
}

// Elements below which bulk copies are not worth their start.
constexpr int64_t kFewElements = 1 << 14;

}  // namespace

void peer_sum(float* x, int64_t n, const PeerWindow& window, cudaStream_t stream) {
  DT_CHECK(window.n_ranks >= 1 && window.n_ranks <= kMaxPeerRanks, "peer_sum: {} ranks; a window holds 1 to {}",
           window.n_ranks, kMaxPeerRanks);
  if (n == 0 || window.n_ranks == 1) return;
  const auto by_threads = [&](float* from, int64_t count) {
    if (count == 0) return;
    const auto blocks = std::min<int64_t>(kPeerSumMultiprocessors, (count + kThreads - 1) / kThreads);
    peer_sum_by_threads_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(from, count, window);
    check_launch("peer_sum_by_threads_kernel");
  };
  const bool bulk = n >= kFewElements && reinterpret_cast<uintptr_t>(x) % 16 == 0 && has_bulk_copies();
  if (!bulk) return by_threads(x, n);
  const int64_t whole = n / 4 * 4;
  const int chunk = kStageBytes / window.n_ranks / 128 * 128;
  DT_CUDA_CHECK(
      cudaFuncSetAttribute(peer_sum_in_bulk_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  peer_sum_in_bulk_kernel<<<kPeerSumMultiprocessors, kBulkThreads, kSharedBytes, stream>>>(x, whole * 4, chunk, window);
  check_launch("peer_sum_in_bulk_kernel");
  by_threads(x + whole, n - whole);
}

}  // namespace deeptitan::cuda
