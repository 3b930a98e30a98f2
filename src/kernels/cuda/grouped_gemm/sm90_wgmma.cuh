#pragma once

// Warpgroup matrix multiply-accumulate (PTX ISA, section "wgmma.mma_async"): 128 threads, D [64, N] in registers, A and
// B in shared memory behind descriptors.

#include <cstdint>

namespace deeptitan::cuda::sm90 {

/// Descriptor of an operand in shared memory whose rows of 128 bytes are swizzled as the TMA's 128-byte mode does: the
/// lower half varies, the upper half (swizzle mode, 1024 bytes from one group of eight rows to the next) does not. An
/// operand that starts `bytes` further on has the lower half + (bytes >> 4).
/// In a cluster the address of shared memory carries the block's rank above its 18 bits, and is cut here.
/// `leading_bytes`: distance between blocks of 64 elements along M or N when those are contiguous; unused when K is.
__device__ __forceinline__ uint32_t make_descriptor(uint32_t address, uint32_t leading_bytes) {
  return leading_bytes >> 4 << 16 | (address & 0x3ffff) >> 4;
}
inline constexpr uint32_t kDescriptorHigh = 1u << 30 | 1024 >> 4;

/// Orders register accesses before the next wgmma; needed before the first one that uses freshly written registers.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Waits until at most kPending groups of this warpgroup are in flight.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Keeps the compiler from moving accesses to the accumulators across this point.
template <int kCount>
__device__ __forceinline__ void pin_registers(float* d) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define DT_ACC8(d, i)                                                                                               \
  "+f"((d)[i]), "+f"((d)[(i) + 1]), "+f"((d)[(i) + 2]), "+f"((d)[(i) + 3]), "+f"((d)[(i) + 4]), "+f"((d)[(i) + 5]), \
      "+f"((d)[(i) + 6]), "+f"((d)[(i) + 7])

// clang-format off
/// D [64, 256] = A [64, 16] x B^T [16, 256] + (accumulate ? D : 0), bf16 in, fp32 out; kTranspose: 1 when M or N, not K, is contiguous.
template <int kTransposeA, int kTransposeB>
__device__ __forceinline__ void wgmma_m64n256k16_bf16(float* d, uint32_t a, uint32_t b, int accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      ".reg .b64 da, db;\n"
      "setp.ne.b32 p, %130, 0;\n"
      "mov.b64 da, {%128, %131};\n"
      "mov.b64 db, {%129, %131};\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, "
      "%43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, "
      "%85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, "
      "%105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, "
      "%122, %123, %124, %125, %126, %127}, "
      "da, db, p, 1, 1, %132, %133;\n"
      "}"
      :
        DT_ACC8(d, 0), DT_ACC8(d, 8), DT_ACC8(d, 16), DT_ACC8(d, 24), DT_ACC8(d, 32), DT_ACC8(d, 40), DT_ACC8(d, 48), DT_ACC8(d, 56),
        DT_ACC8(d, 64), DT_ACC8(d, 72), DT_ACC8(d, 80), DT_ACC8(d, 88), DT_ACC8(d, 96), DT_ACC8(d, 104), DT_ACC8(d, 112), DT_ACC8(d, 120)
      : "r"(a), "r"(b), "r"(accumulate), "r"(kDescriptorHigh), "n"(kTransposeA), "n"(kTransposeB));
}

/// As above with N = 128.
template <int kTransposeA, int kTransposeB>
__device__ __forceinline__ void wgmma_m64n128k16_bf16(float* d, uint32_t a, uint32_t b, int accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      ".reg .b64 da, db;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "mov.b64 da, {%64, %67};\n"
      "mov.b64 db, {%65, %67};\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, "
      "%43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, "
      "%63}, "
      "da, db, p, 1, 1, %68, %69;\n"
      "}"
      :
        DT_ACC8(d, 0), DT_ACC8(d, 8), DT_ACC8(d, 16), DT_ACC8(d, 24), DT_ACC8(d, 32), DT_ACC8(d, 40), DT_ACC8(d, 48), DT_ACC8(d, 56)
      : "r"(a), "r"(b), "r"(accumulate), "r"(kDescriptorHigh), "n"(kTransposeA), "n"(kTransposeB));
}

/// D [64, 128] = A [64, 32] x B^T [32, 128] + (accumulate ? D : 0), e4m3 in with K contiguous, fp32 out.
__device__ __forceinline__ void wgmma_m64n128k32_e4m3(float* d, uint32_t a, uint32_t b, int accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      ".reg .b64 da, db;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "mov.b64 da, {%64, %67};\n"
      "mov.b64 db, {%65, %67};\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, "
      "%43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, "
      "%63}, "
      "da, db, p, 1, 1;\n"
      "}"
      :
        DT_ACC8(d, 0), DT_ACC8(d, 8), DT_ACC8(d, 16), DT_ACC8(d, 24), DT_ACC8(d, 32), DT_ACC8(d, 40), DT_ACC8(d, 48), DT_ACC8(d, 56)
      : "r"(a), "r"(b), "r"(accumulate), "r"(kDescriptorHigh));
}
// clang-format on

#undef DT_ACC8

}  // namespace deeptitan::cuda::sm90
