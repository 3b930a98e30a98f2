#pragma once

// What the parts of Hopper's backward of attention share: sizes, shared memory, the list of tiles, and the products and
// copies that only it needs.

#include <cuda.h>

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/cuda/sm90_primitives.cuh"
#include "kernels/cuda/sm90_wgmma_bf16.cuh"

namespace deeptitan::cuda::sm90::attention_backward {

inline constexpr int kKeyTile = 128, kQueryTile = 64;
inline constexpr int kNope = 128, kRope = 64, kKeyDim = kNope + kRope, kValueDim = 128;
inline constexpr int kSumFloats = kQueryTile * kKeyDim;  // of a tile's d_query

/// A tile of keys: that of `length` tokens from token `first` on which the unit that asks counts from `first_tile`.
/// Tiles of queries but the document's first two have a slot each for their d_query, from `first_slot` on.
struct DocumentTiles {
  int first, length, first_tile, first_slot;
};

/// What is asked of a block: d_key and d_value of a tile of keys in one head.
struct AttentionWork {
  int first, length;  // the document; length 0: there is no more work
  int tile;           // of keys, in the document
  int head;
  int first_slot;
  __device__ int query_tiles() const { return (length + kQueryTile - 1) / kQueryTile; }
  /// The first tile of queries that sees the keys, and the first one behind the diagonal, to which later tiles of keys
  /// add too.
  __device__ int first_query_tile() const { return tile * (kKeyTile / kQueryTile); }
  __device__ int shared_query_tile() const { return first_query_tile() + kKeyTile / kQueryTile; }
  __device__ int64_t slot(int query_tile, int heads) const {
    return static_cast<int64_t>(first_slot + query_tile - kKeyTile / kQueryTile) * heads + head;
  }
};

struct AttentionBackwardParameters {
  CUtensorMap query, d_out;          // boxes of 64 tokens of a head
  CUtensorMap key, key_rope, value;  // boxes of 128 tokens of a head
  bfloat16* d_query;                 // [T, H, 192]
  bfloat16* d_key_value;             // [T, H, 256]
  float* d_key_rope;                 // [T, H, 64]
  const float2* statistics;          // [H, T]: log-sum-exp in base 2, and d_out . out
  const DocumentTiles* tiles;        // of each tile of keys
  const int* tile_count;
  int* next_unit;
  int* added;   // [slots, H]: how many tiles of keys have added to the sum
  float* sums;  // [slots, H, kSumFloats], in the order in which the consumers' registers hold them
  int tokens, heads;
  float scale;
};

/// Offsets in shared memory.
struct AttentionShared {
  static constexpr int kStages = 2, kWorkSlots = 2;
  static constexpr int kKeyBytes = kKeyTile * kKeyDim * 2, kValueBytes = kKeyTile * kValueDim * 2;
  static constexpr int kQueryBytes = kQueryTile * kKeyDim * 2, kDOutBytes = kQueryTile * kValueDim * 2;
  static constexpr int kValueOffset = kKeyBytes;
  static constexpr int kQueryOffset = kValueOffset + kValueBytes;
  static constexpr int kDOutOffset = kQueryOffset + kStages * kQueryBytes;
  static constexpr int kDScoreOffset = kDOutOffset + kStages * kDOutBytes;
  static constexpr int kSumOffset = kDScoreOffset + kKeyTile * kQueryTile * 2;
  static constexpr int kStatisticsOffset = kSumOffset + kSumFloats * 4;
  static constexpr int kStatisticsBytes = 2 * kQueryTile * 4;
  static constexpr int kWorkOffset = kStatisticsOffset + kStages * kStatisticsBytes;
  static constexpr int kBarrierOffset = kWorkOffset + kWorkSlots * 32;
  static constexpr int kBytes = kBarrierOffset + 8 * (2 * kStages + 2 * kWorkSlots + 5);
  static_assert(kBytes <= 232448, "more shared memory than a Hopper block can have");

  uint32_t base;
  __device__ uint32_t key() const { return base; }
  __device__ uint32_t value() const { return base + kValueOffset; }
  __device__ uint32_t query(int stage) const { return base + kQueryOffset + stage * kQueryBytes; }
  __device__ uint32_t d_out(int stage) const { return base + kDOutOffset + stage * kDOutBytes; }
  __device__ uint32_t d_score() const { return base + kDScoreOffset; }
  __device__ uint32_t sum() const { return base + kSumOffset; }
  __device__ uint32_t statistics(int stage) const { return base + kStatisticsOffset + stage * kStatisticsBytes; }
  __device__ uint32_t work(int slot) const { return base + kWorkOffset + slot * 32; }
  __device__ uint32_t barrier(int i) const { return base + kBarrierOffset + 8 * i; }
  __device__ uint32_t full(int stage) const { return barrier(stage); }
  __device__ uint32_t empty(int stage) const { return barrier(kStages + stage); }
  __device__ uint32_t work_full(int slot) const { return barrier(2 * kStages + slot); }
  __device__ uint32_t work_empty(int slot) const { return barrier(2 * kStages + kWorkSlots + slot); }
  __device__ uint32_t keys_full() const { return barrier(2 * kStages + 2 * kWorkSlots); }
  __device__ uint32_t keys_empty() const { return barrier(2 * kStages + 2 * kWorkSlots + 1); }
  __device__ uint32_t d_score_empty() const { return barrier(2 * kStages + 2 * kWorkSlots + 2); }
  __device__ uint32_t sum_full() const { return barrier(2 * kStages + 2 * kWorkSlots + 3); }
  __device__ uint32_t sum_empty() const { return barrier(2 * kStages + 2 * kWorkSlots + 4); }
};

/// The upper half of the descriptor of an operand with rows of 64 bytes, swizzled as the TMA's 64-byte mode does: 512
/// bytes from one group of eight rows to the next.
inline constexpr uint32_t kDescriptorHigh64 = 2u << 30 | 512 >> 4;

#define DT_ACC8(d, i)                                                                                               \
  "+f"((d)[i]), "+f"((d)[(i) + 1]), "+f"((d)[(i) + 2]), "+f"((d)[(i) + 3]), "+f"((d)[(i) + 4]), "+f"((d)[(i) + 5]), \
      "+f"((d)[(i) + 6]), "+f"((d)[(i) + 7])
// clang-format off
/// D [64, 64] (+)= A [64, 16] x B^T [16, 64] with K contiguous in both; A has rows of 64 bytes, B of 128.
__device__ __forceinline__ void multiply_scores(float* d, uint32_t a, uint32_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\n.reg .b64 da, db;\nsetp.ne.b32 p, %34, 0;\nmov.b64 da, {%32, %35};\nmov.b64 db, {%33, %36};\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, "
      "%23, %24, %25, %26, %27, %28, %29, %30, %31}, da, db, p, 1, 1, 0, 0;\n}"
      : DT_ACC8(d, 0), DT_ACC8(d, 8), DT_ACC8(d, 16), DT_ACC8(d, 24)
      : "r"(a), "r"(b), "r"(accumulate), "r"(kDescriptorHigh64), "r"(kDescriptorHigh));
}

/// D [64, 96] (+)= A [64, 16] x B^T [16, 96] with M and N contiguous; A has rows of 128 bytes, B of 64.
__device__ __forceinline__ void multiply_d_scores(float* d, uint32_t a, uint32_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\n.reg .b64 da, db;\nsetp.ne.b32 p, %50, 0;\nmov.b64 da, {%48, %52};\nmov.b64 db, {%49, %51};\n"
      "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, "
      "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, "
      "%44, %45, %46, %47}, da, db, p, 1, 1, 1, 1;\n}"
      : DT_ACC8(d, 0), DT_ACC8(d, 8), DT_ACC8(d, 16), DT_ACC8(d, 24), DT_ACC8(d, 32), DT_ACC8(d, 40)
      : "r"(a), "r"(b), "r"(accumulate), "r"(kDescriptorHigh64), "r"(kDescriptorHigh));
}
// clang-format on
#undef DT_ACC8

/// Four 8 x 8 matrices of bf16 to shared memory, lanes 8i to 8i + 7 giving the addresses of matrix i's rows.
__device__ __forceinline__ void store_matrices(uint32_t address, const uint32_t* r) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
}

__device__ __forceinline__ float2 load_shared_pair(uint32_t address) {
  float2 value;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(value.x), "=f"(value.y) : "r"(address) : "memory");
  return value;
}

/// Copies from shared memory to contiguous global memory, or adds to what is there; completes with bulk_wait.
__device__ __forceinline__ void bulk_store(void* to, uint32_t source, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(source), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void bulk_add(float* to, uint32_t source, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to), "r"(source),
               "r"(bytes)
               : "memory");
}
/// Waits until all bulk copies of this thread are written.
__device__ __forceinline__ void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/// Orders accesses to global memory by this thread and by the TMA.
__device__ __forceinline__ void fence_async_global() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

/// Waits until *counter is `expected`, and sees what was written before it was set; faults as mbarrier_wait does.
__device__ __forceinline__ void wait_for_count(const int* counter, int expected) {
  const auto read = [&] {
    int value;
    asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
    return value;
  };
  if (read() == expected) return;
  const uint64_t start = global_nanoseconds();
  while (read() != expected) {
    if (global_nanoseconds() - start > kWaitLimitNanoseconds) fault();
  }
}

__device__ __forceinline__ void set_count(int* counter, int value) {
  asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(counter), "r"(value) : "memory");
}

}  // namespace deeptitan::cuda::sm90::attention_backward
