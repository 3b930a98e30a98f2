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
#pragma unroll 1
    for (; i < count; i += n_threads) to[i] = from[i];
  } else {
    const auto* from = reinterpret_cast<const uint32_t*>(range.from);
    auto* to = reinterpret_cast<uint32_t*>(range.to);
#pragma unroll 1
    for (int64_t i = thread; i < range.bytes / 4; i += n_threads) to[i] = from[i];
  }
}

/// The chunks of at most kChunkBytes of all parts that a walk yields. A Walk has a type Part with a member `bytes`, and
/// next(part), which is false at the end and from then on, source(part) and target(part). Before the first next() it
/// stands at no chunk.
template <typename Walk, int kChunkBytes>
class Chunks {
 public:
  Chunks() = default;
  __device__ explicit Chunks(const Walk& walk) : walk_(walk) {}

  __device__ __forceinline__ bool next() {
    at_ += kChunkBytes;
    while (at_ >= part_.bytes) {
      if (!walk_.next(part_)) return false;
      at_ = 0;
      source_ = nullptr;
      target_ = nullptr;
    }
    return true;
  }
  __device__ __forceinline__ const char* source() {
    if (source_ == nullptr) source_ = walk_.source(part_);
    return source_ + at_;
  }
  __device__ __forceinline__ char* target() {
    if (target_ == nullptr) target_ = walk_.target(part_);
    return target_ + at_;
  }
  __device__ uint32_t bytes() const {
    return static_cast<uint32_t>(part_.bytes - at_ < kChunkBytes ? part_.bytes - at_ : kChunkBytes);
  }

 private:
  Walk walk_{};
  typename Walk::Part part_{};
  int64_t at_ = 0;
  const char* source_ = nullptr;  // of the part, once asked for
  char* target_ = nullptr;
};

/// The ring of shared memory that one thread's bulk copies go through: kStages chunks, kInFlight of them being loaded
/// while the others drain into their targets. Loads and stores walk over the same chunks by themselves, so that loads
/// can start before the targets are known. Everything is aligned to 16 bytes.
template <int kChunk, int kStages, int kInFlight>
class BulkRing {
 public:
  static_assert(kChunk % 128 == 0 && kInFlight >= 1 && kInFlight < kStages);
  static constexpr int kChunkBytes = kChunk;
  static constexpr uint32_t kMostInFlight = kInFlight;
  static constexpr int64_t kBytes = static_cast<int64_t>(kStages) * (kChunkBytes + 8);

  /// `shared`: kBytes, aligned to 128.
  __device__ explicit BulkRing(char* shared)
      : chunks_(shared_address(shared)), barriers_(shared_address(shared) + kStages * kChunkBytes) {}

#if __CUDA_ARCH__ >= 900
  /// Starts to load the first chunks, at most `most`, which is at most kInFlight, and has `stores` stand at the first.
  template <typename Walk>
  __device__ void start(Chunks<Walk, kChunkBytes>& loads, Chunks<Walk, kChunkBytes>& stores,
                        uint32_t most = kInFlight) {
    for (int s = 0; s < kStages; ++s) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barriers_ + 8 * s) : "memory");
    }
    // The barriers were initialised, and the rows to be read were acquired from their writers, through the generic
    // proxy; bulk copies act in the async proxy.
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");
    while (loaded_ < most && loads.next()) load(loads);
    stores.next();
  }

  /// Copies all chunks, those being loaded included. When it returns every store is performed.
  /// When a chunk is about to be loaded, the store of the one before it in the same stage must have left that stage: at
  /// most the newest kStages - kInFlight stores may still be reading theirs.
  template <typename Walk>
  __device__ void finish(Chunks<Walk, kChunkBytes>& loads, Chunks<Walk, kChunkBytes>& stores) {
    asm volatile("fence.proxy.async;" ::: "memory");  // after the words that say where and that the targets are free
    // What was loaded ahead of time is there by now and goes first.
    const uint32_t ahead = loaded_ < kInFlight ? loaded_ : 0;
    while (stored_ < ahead) store(stores);
    while (loads.next()) {
      if (loaded_ - stored_ == kInFlight) store(stores);
      asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kStages - kInFlight) : "memory");
      load(loads);
    }
    while (stored_ < loaded_) store(stores);
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");  // before signals, which the generic proxy writes
  }

  /// Waits for the chunks being loaded and drops them.
  __device__ void abandon() {
    while (stored_ < loaded_) wait_for_load();
  }
#endif

 private:
  __device__ static uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
  }

#if __CUDA_ARCH__ >= 900
  template <typename Walk>
  __device__ __forceinline__ void load(Chunks<Walk, kChunkBytes>& chunk) {
    const uint32_t stage = loaded_++ % kStages;
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barriers_ + 8 * stage),
                 "r"(chunk.bytes())
                 : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     chunks_ + stage * kChunkBytes),
                 "l"(__cvta_generic_to_global(chunk.source())), "r"(chunk.bytes()), "r"(barriers_ + 8 * stage)
                 : "memory");
  }

  template <typename Walk>
  __device__ __forceinline__ void store(Chunks<Walk, kChunkBytes>& chunks) {
    const uint32_t stage = wait_for_load();
    asm volatile(
        "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(chunks.target())),
        "r"(chunks_ + stage * kChunkBytes), "r"(chunks.bytes())
        : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    chunks.next();
  }

  /// Waits for the oldest chunk being loaded and returns its stage. Chunk i completes the barrier of stage i % kStages
  /// for the (i / kStages)-th time.
  __device__ uint32_t wait_for_load() {
    const uint32_t stage = stored_ % kStages;
    const uint32_t parity = stored_ / kStages & 1;
    ++stored_;
    uint32_t done = 0;
    while (done == 0) {
      asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                   : "=r"(done)
                   : "r"(barriers_ + 8 * stage), "r"(parity)
                   : "memory");
    }
    return stage;
  }
#endif

  uint32_t chunks_;      // [kStages][kChunkBytes] in shared memory
  uint32_t barriers_;    // [kStages] of 8 bytes, one arrival each
  uint32_t loaded_ = 0;  // chunks of which the load has begun
  uint32_t stored_ = 0;  // and the store
};

}  // namespace deeptitan::cuda
