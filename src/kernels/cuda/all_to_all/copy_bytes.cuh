#pragma once

#include <cstdint>

// Copies between a peer's memory and this device's, either by the threads of a block (loads and stores of 16 bytes) or,
// on Hopper, by its bulk copy engine through shared memory.

namespace deeptitan::cuda {

/// A contiguous copy. All three are multiples of 4; where they are multiples of 16 the copy is fast.
struct CopyRange {
  char* to;
  const char* from;
  int64_t bytes;
};

__device__ inline bool is_aligned_to_16(const CopyRange& range) {
  return ((reinterpret_cast<uintptr_t>(range.to) | reinterpret_cast<uintptr_t>(range.from) |
           static_cast<uintptr_t>(range.bytes)) &
          15) == 0;
}

/// range, by threads `thread` of `n_threads`. kUnroll loads a thread are under way before the first is stored: a load
/// over the link takes about two microseconds.
template <int kUnroll = 8>
__device__ inline void copy_range(const CopyRange& range, int thread, int n_threads) {
  if (is_aligned_to_16(range)) {
    const auto* from = reinterpret_cast<const uint4*>(range.from);
    auto* to = reinterpret_cast<uint4*>(range.to);
    const int64_t count = range.bytes / 16;
    int64_t i = thread;
    for (; i + (kUnroll - 1) * static_cast<int64_t>(n_threads) < count;
         i += kUnroll * static_cast<int64_t>(n_threads)) {
      uint4 values[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) values[u] = from[i + u * static_cast<int64_t>(n_threads)];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) to[i + u * static_cast<int64_t>(n_threads)] = values[u];
    }
    for (; i < count; i += n_threads) to[i] = from[i];
  } else {
    const auto* from = reinterpret_cast<const uint32_t*>(range.from);
    auto* to = reinterpret_cast<uint32_t*>(range.to);
    for (int64_t i = thread; i < range.bytes / 4; i += n_threads) to[i] = from[i];
  }
}

/// The ring of shared memory that one thread's bulk copies go through: kStages chunks, kInFlight of them being loaded
/// while the others drain into device memory.
template <int kChunkBytes, int kStages, int kInFlight>
struct BulkRing {
  static_assert(kChunkBytes % 128 == 0 && kInFlight >= 1 && kInFlight < kStages);
  static constexpr int64_t kBytes = static_cast<int64_t>(kStages) * (kChunkBytes + 8 + sizeof(char*) + 4);

  char* chunks;        // [kStages][kChunkBytes]
  uint64_t* barriers;  // [kStages], one arrival each
  char** to;           // [kStages]
  uint32_t* bytes;     // [kStages]

  __device__ explicit BulkRing(char* shared)
      : chunks(shared),
        barriers(reinterpret_cast<uint64_t*>(shared + kStages * kChunkBytes)),
        to(reinterpret_cast<char**>(barriers + kStages)),
        bytes(reinterpret_cast<uint32_t*>(to + kStages)) {}

#if __CUDA_ARCH__ >= 900
  /// Copies every range that next(range) yields (each aligned to 16 bytes), by one thread; done when it returns: every
  /// load has landed and every store is performed.
  /// Chunk i is loaded into stage i % kStages, where it completes that stage's barrier for the (i / kStages)-th time.
  /// When chunk i is about to be loaded, the stores of chunks up to i - kInFlight have been committed, and that of
  /// chunk i - kStages must have left its stage: at most the newest kStages - kInFlight stores may still be reading
  /// theirs.
  template <typename Next>
  __device__ void copy_all(Next next) {
    for (int s = 0; s < kStages; ++s) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barriers + s)) : "memory");
    }
    // The barriers were initialised, and the rows to be read were acquired from their writers, through the generic
    // proxy; bulk copies act in the async proxy.
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");
    int64_t loaded = 0;
    int64_t stored = 0;
    CopyRange range;
    while (next(range)) {
      for (int64_t at = 0; at < range.bytes; at += kChunkBytes) {
        const auto n = static_cast<uint32_t>(range.bytes - at < kChunkBytes ? range.bytes - at : kChunkBytes);
        if (loaded - stored == kInFlight) store_chunk(stored++);
        asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kStages - kInFlight) : "memory");
        load_chunk(loaded++, range.to + at, range.from + at, n);
      }
    }
    while (stored < loaded) store_chunk(stored++);
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");  // before signals, which the generic proxy writes
  }

 private:
  __device__ static uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
  }

  __device__ void load_chunk(int64_t chunk, char* destination, const char* source, uint32_t n) {
    const int s = static_cast<int>(chunk % kStages);
    to[s] = destination;
    bytes[s] = n;
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barriers + s)), "r"(n)
                 : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(chunks + s * kChunkBytes)),
                 "l"(__cvta_generic_to_global(source)), "r"(n), "r"(shared_address(barriers + s))
                 : "memory");
  }

  __device__ void store_chunk(int64_t chunk) {
    const int s = static_cast<int>(chunk % kStages);
    const auto parity = static_cast<uint32_t>(chunk / kStages & 1);
    uint32_t done = 0;
    while (done == 0) {
      asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                   : "=r"(done)
                   : "r"(shared_address(barriers + s)), "r"(parity)
                   : "memory");
    }
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(to[s])),
                 "r"(shared_address(chunks + s * kChunkBytes)), "r"(bytes[s])
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  }
#endif
};

}  // namespace deeptitan::cuda
