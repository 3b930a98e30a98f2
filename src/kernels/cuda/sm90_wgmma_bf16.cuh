#pragma once

// Warpgroup products of bf16 (PTX ISA, section "wgmma.mma_async") by the number of columns, with A in shared memory or
// in registers: D [64, N] += A [64, 16] x B^T [16, N], sums in fp32. Descriptors are those of sm90_wgmma.cuh.

#include <cstdint>

#include "kernels/cuda/grouped_gemm/sm90_wgmma.cuh"

namespace deeptitan::cuda::sm90 {

#define DT_ACC8(d, i)                                                                                               \
  "+f"((d)[i]), "+f"((d)[(i) + 1]), "+f"((d)[(i) + 2]), "+f"((d)[(i) + 3]), "+f"((d)[(i) + 4]), "+f"((d)[(i) + 5]), \
      "+f"((d)[(i) + 6]), "+f"((d)[(i) + 7])
#define DT_ACC32(d, i) DT_ACC8(d, i), DT_ACC8(d, (i) + 8), DT_ACC8(d, (i) + 16), DT_ACC8(d, (i) + 24)
#define DT_NEW8(d, i)                                                                                               \
  "=f"((d)[i]), "=f"((d)[(i) + 1]), "=f"((d)[(i) + 2]), "=f"((d)[(i) + 3]), "=f"((d)[(i) + 4]), "=f"((d)[(i) + 5]), \
      "=f"((d)[(i) + 6]), "=f"((d)[(i) + 7])
#define DT_NEW32(d, i) DT_NEW8(d, i), DT_NEW8(d, (i) + 8), DT_NEW8(d, (i) + 16), DT_NEW8(d, (i) + 24)
#define DT_D32                                                                                                     \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define DT_D64                                                                                             \
  DT_D32                                                                                                   \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
  "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define DT_D96                                                                                             \
  DT_D64                                                                                                   \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, " \
  "%84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"

// clang-format off
/// A and B in shared memory; kTranspose: 1 when M or N, not K, is contiguous. `accumulate` 0: D is overwritten.
template <int kN, int kTransposeA, int kTransposeB>
__device__ __forceinline__ void wgmma_bf16(float* d, uint32_t a, uint32_t b, int accumulate) {
  static_assert(kN == 64 || kN == 128 || kN == 192);
  if constexpr (kN == 64) {
    asm volatile("{\n.reg .pred p;\n.reg .b64 da, db;\nsetp.ne.b32 p, %34, 0;\nmov.b64 da, {%32, %35};\nmov.b64 db, {%33, %35};\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" DT_D32 "}, da, db, p, 1, 1, %36, %37;\n}"
                 : DT_ACC32(d, 0)
                 : "r"(a), "r"(b), "r"(accumulate), "r"(kDescriptorHigh), "n"(kTransposeA), "n"(kTransposeB));
  } else if constexpr (kN == 128) {
    asm volatile("{\n.reg .pred p;\n.reg .b64 da, db;\nsetp.ne.b32 p, %66, 0;\nmov.b64 da, {%64, %67};\nmov.b64 db, {%65, %67};\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DT_D64 "}, da, db, p, 1, 1, %68, %69;\n}"
                 : DT_ACC32(d, 0), DT_ACC32(d, 32)
                 : "r"(a), "r"(b), "r"(accumulate), "r"(kDescriptorHigh), "n"(kTransposeA), "n"(kTransposeB));
  } else if constexpr (kN == 192) {
    asm volatile("{\n.reg .pred p;\n.reg .b64 da, db;\nsetp.ne.b32 p, %98, 0;\nmov.b64 da, {%96, %99};\nmov.b64 db, {%97, %99};\n"
                 "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" DT_D96 "}, da, db, p, 1, 1, %100, %101;\n}"
                 : DT_ACC32(d, 0), DT_ACC32(d, 32), DT_ACC32(d, 64)
                 : "r"(a), "r"(b), "r"(accumulate), "r"(kDescriptorHigh), "n"(kTransposeA), "n"(kTransposeB));
  }
}

/// A in registers: lane l of warp w holds, as pairs of bf16, rows 16 w + l / 4 and that + 8 (a[0], a[1]) at columns 2 (l % 4)
/// and + 1, and the same at columns + 8 (a[2], a[3]): what four neighbouring accumulators of two column blocks become.
template <int kN, int kTransposeB>
__device__ __forceinline__ void wgmma_bf16_registers(float* d, const uint32_t* a, uint32_t b, int accumulate) {
  static_assert(kN == 64 || kN == 128 || kN == 192);
  if constexpr (kN == 64) {
    asm volatile("{\n.reg .pred p;\n.reg .b64 db;\nsetp.ne.b32 p, %37, 0;\nmov.b64 db, {%36, %38};\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" DT_D32 "}, {%32, %33, %34, %35}, db, p, 1, 1, %39;\n}"
                 : DT_ACC32(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(accumulate), "r"(kDescriptorHigh), "n"(kTransposeB));
  } else if constexpr (kN == 128) {
    asm volatile("{\n.reg .pred p;\n.reg .b64 db;\nsetp.ne.b32 p, %69, 0;\nmov.b64 db, {%68, %70};\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DT_D64 "}, {%64, %65, %66, %67}, db, p, 1, 1, %71;\n}"
                 : DT_ACC32(d, 0), DT_ACC32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(accumulate), "r"(kDescriptorHigh), "n"(kTransposeB));
  } else if constexpr (kN == 192) {
    asm volatile("{\n.reg .pred p;\n.reg .b64 db;\nsetp.ne.b32 p, %101, 0;\nmov.b64 db, {%100, %102};\n"
                 "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" DT_D96 "}, {%96, %97, %98, %99}, db, p, 1, 1, %103;\n}"
                 : DT_ACC32(d, 0), DT_ACC32(d, 32), DT_ACC32(d, 64)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(accumulate), "r"(kDescriptorHigh), "n"(kTransposeB));
  }
}
/// D = A x B^T, whatever D holds: both in shared memory.
template <int kN, int kTransposeA, int kTransposeB>
__device__ __forceinline__ void wgmma_bf16_overwrite(float* d, uint32_t a, uint32_t b) {
  static_assert(kN == 64 || kN == 128 || kN == 192);
  if constexpr (kN == 64) {
    asm volatile("{\n.reg .b64 da, db;\nmov.b64 da, {%32, %34};\nmov.b64 db, {%33, %34};\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" DT_D32 "}, da, db, 0, 1, 1, %35, %36;\n}"
                 : DT_NEW32(d, 0)
                 : "r"(a), "r"(b), "r"(kDescriptorHigh), "n"(kTransposeA), "n"(kTransposeB));
  } else if constexpr (kN == 128) {
    asm volatile("{\n.reg .b64 da, db;\nmov.b64 da, {%64, %66};\nmov.b64 db, {%65, %66};\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DT_D64 "}, da, db, 0, 1, 1, %67, %68;\n}"
                 : DT_NEW32(d, 0), DT_NEW32(d, 32)
                 : "r"(a), "r"(b), "r"(kDescriptorHigh), "n"(kTransposeA), "n"(kTransposeB));
  } else if constexpr (kN == 192) {
    asm volatile("{\n.reg .b64 da, db;\nmov.b64 da, {%96, %98};\nmov.b64 db, {%97, %98};\n"
                 "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" DT_D96 "}, da, db, 0, 1, 1, %99, %100;\n}"
                 : DT_NEW32(d, 0), DT_NEW32(d, 32), DT_NEW32(d, 64)
                 : "r"(a), "r"(b), "r"(kDescriptorHigh), "n"(kTransposeA), "n"(kTransposeB));
  }
}

/// As wgmma_bf16_registers, D = A x B^T.
template <int kN, int kTransposeB>
__device__ __forceinline__ void wgmma_bf16_registers_overwrite(float* d, const uint32_t* a, uint32_t b) {
  static_assert(kN == 64 || kN == 128 || kN == 192);
  if constexpr (kN == 64) {
    asm volatile("{\n.reg .b64 db;\nmov.b64 db, {%36, %37};\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" DT_D32 "}, {%32, %33, %34, %35}, db, 0, 1, 1, %38;\n}"
                 : DT_NEW32(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(kDescriptorHigh), "n"(kTransposeB));
  } else if constexpr (kN == 128) {
    asm volatile("{\n.reg .b64 db;\nmov.b64 db, {%68, %69};\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" DT_D64 "}, {%64, %65, %66, %67}, db, 0, 1, 1, %70;\n}"
                 : DT_NEW32(d, 0), DT_NEW32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(kDescriptorHigh), "n"(kTransposeB));
  } else if constexpr (kN == 192) {
    asm volatile("{\n.reg .b64 db;\nmov.b64 db, {%100, %101};\n"
                 "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" DT_D96 "}, {%96, %97, %98, %99}, db, 0, 1, 1, %102;\n}"
                 : DT_NEW32(d, 0), DT_NEW32(d, 32), DT_NEW32(d, 64)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(kDescriptorHigh), "n"(kTransposeB));
  }
}
// clang-format on

#undef DT_NEW32
#undef DT_NEW8
#undef DT_D96
#undef DT_D64
#undef DT_D32
#undef DT_ACC32
#undef DT_ACC8

}  // namespace deeptitan::cuda::sm90
