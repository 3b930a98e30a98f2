#pragma once

// Tensor-core instructions that every chip from compute capability 8.0 on has, a warp at a time.
//
// Fragments of m16n8k16, lane l = 4 g + t: A (16 x 16) holds rows g and g + 8, columns 2t, 2t + 1 and 8 more; B (16 x
// 8) holds column g, rows 2t, 2t + 1 and 8 more; C (16 x 8) holds rows g (elements 0, 1) and g + 8 (2, 3), columns 2t
// and 2t + 1. Two C fragments beside one another, rounded, are an A fragment.

#include <cuda_bf16.h>

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cuda {

/// c += a b.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Four 8 x 8 matrices of bf16, lanes 8i to 8i + 7 giving the addresses of matrix i's rows.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
/// The same, each transposed.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

/// The A fragment of rows 0..15 and columns k..k+15 of a tile in shared memory, kStride elements from row to row.
template <int kStride>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], uint32_t tile, int k, int lane) {
  load_matrices(a, tile + 2 * ((lane % 16) * kStride + k + (lane / 16) * 8));
}
/// Two B fragments, of columns n..n+15 and rows k..k+15 of a matrix whose columns are the tile's rows.
template <int kStride>
__device__ __forceinline__ void load_b_of_rows(uint32_t (&b)[4], uint32_t tile, int n, int k, int lane) {
  load_matrices(b, tile + 2 * ((n + (lane / 16) * 8 + lane % 8) * kStride + k + (lane / 8) % 2 * 8));
}
/// Two B fragments, of columns n..n+15 and rows k..k+15 of a matrix whose rows are the tile's rows.
template <int kStride>
__device__ __forceinline__ void load_b(uint32_t (&b)[4], uint32_t tile, int n, int k, int lane) {
  load_matrices_transposed(b, tile + 2 * ((k + (lane / 8) % 2 * 8 + lane % 8) * kStride + n + (lane / 16) * 8));
}

/// Two floats rounded to bf16, the first in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/// 16 bytes from global to shared memory, behind the caller; zeros where not `valid`.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most kPending of the groups committed are on their way.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace deeptitan::cuda
