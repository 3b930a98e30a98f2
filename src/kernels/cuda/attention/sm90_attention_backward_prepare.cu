#include "kernels/cuda/attention/sm90_attention_backward_prepare.h"

#include "kernels/cuda/attention/row_softmax.cuh"
#include "kernels/cuda/attention/sm90_attention_backward.cuh"
#include "kernels/cuda/error.h"

namespace deeptitan::cuda::sm90::attention_backward {
namespace {

constexpr int kListThreads = 1024, kListWarps = kListThreads / 32;
constexpr int kRowThreads = 256, kRowLanes = 16;  // threads a row: 16 bytes of its 128 elements each
constexpr unsigned kAllLanes = ~0u;

struct Counts {
  int tiles, slots;
};
__device__ __forceinline__ Counts operator+(Counts a, Counts b) {
  return {a.tiles + b.tiles, a.slots + b.slots};
}

/// The sum over this lane and those before it.
__device__ __forceinline__ Counts scan_warp(Counts sum, int lane) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const Counts before = {__shfl_up_sync(kAllLanes, sum.tiles, step), __shfl_up_sync(kAllLanes, sum.slots, step)};
    if (lane >= step) sum = sum + before;
  }
  return sum;
}

__global__ void __launch_bounds__(kListThreads)
    list_attention_tiles_kernel(DocumentTiles* tiles, int* tile_count, const int32_t* offset, int64_t documents) {
  __shared__ Counts of_warp[kListWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Counts before = {0, 0};  // of the documents of earlier rounds
  for (int64_t base = 0; base < documents; base += kListThreads) {
    const int64_t document = base + threadIdx.x;
    const bool there = document < documents;
    const int first = there ? offset[document] : 0;
    const int length = there ? max(offset[document + 1] - first, 0) : 0;
    const Counts own = {(length + kKeyTile - 1) / kKeyTile,
                        max((length + kQueryTile - 1) / kQueryTile - kKeyTile / kQueryTile, 0)};
    const Counts in_warp = scan_warp(own, lane);
    if (lane == 31) of_warp[warp] = in_warp;
    __syncthreads();
    Counts sum = before + in_warp, total = before;
    for (int w = 0; w < kListWarps; ++w) {
      if (w < warp) sum = sum + of_warp[w];
      total = total + of_warp[w];
    }
    __syncthreads();
    before = total;
    const DocumentTiles entry = {first, length, sum.tiles - own.tiles, sum.slots - own.slots};
    for (int from = 0; from < 32; ++from) {  // a document at a time, a lane a tile
      const int count = __shfl_sync(kAllLanes, own.tiles, from);
      if (count == 0) continue;
      const DocumentTiles shared_entry = {
          __shfl_sync(kAllLanes, entry.first, from), __shfl_sync(kAllLanes, entry.length, from),
          __shfl_sync(kAllLanes, entry.first_tile, from), __shfl_sync(kAllLanes, entry.first_slot, from)};
      for (int tile = lane; tile < count; tile += 32) tiles[shared_entry.first_tile + tile] = shared_entry;
    }
  }
  if (threadIdx.x == 0) *tile_count = before.tiles;
}

__device__ __forceinline__ float low_half(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float high_half(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

/// Clears 16-byte pieces of a row, by the threads that share it.
__device__ __forceinline__ void clear_row(void* row, int bytes, int lane) {
  for (int i = lane; i < bytes / 16; i += kRowLanes) static_cast<uint4*>(row)[i] = make_uint4(0, 0, 0, 0);
}

__global__ void __launch_bounds__(kRowThreads)
    prepare_attention_rows_kernel(float2* statistics, bfloat16* d_query, bfloat16* d_key_value, float* d_key_rope,
                                  const bfloat16* d_out, const bfloat16* out, const float* log_sum_exp,
                                  cpu::AttentionInputs<bfloat16> in, int64_t tokens) {
  const int lane = threadIdx.x % kRowLanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kRowThreads / kRowLanes) + threadIdx.x / kRowLanes;
  const int64_t token = row / in.heads, head = row - token * in.heads;
  const bool there = token < tokens;
  float dot = 0;
  if (there) {
    const uint4 a = reinterpret_cast<const uint4*>(d_out + row * kValueDim)[lane];
    const uint4 b = reinterpret_cast<const uint4*>(out + row * kValueDim)[lane];
    const uint32_t x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      dot = fmaf(low_half(x[i]), low_half(y[i]), dot);
      dot = fmaf(high_half(x[i]), high_half(y[i]), dot);
    }
  }
#pragma unroll
  for (int step = kRowLanes / 2; step > 0; step /= 2) dot += __shfl_xor_sync(kAllLanes, dot, step);
  if (!there) return;
  if (lane == 0) statistics[head * tokens + token] = make_float2(log_sum_exp[row] * kLog2E, dot);
  if (in.documents > 0 && in.document_offset[0] <= token && token < in.document_offset[in.documents]) return;
  clear_row(d_query + row * kKeyDim, kKeyDim * 2, lane);
  clear_row(d_key_value + row * (kNope + kValueDim), (kNope + kValueDim) * 2, lane);
  clear_row(d_key_rope + row * kRope, kRope * 4, lane);
}

}  // namespace

void list_attention_tiles(DocumentTiles* tiles, int* tile_count, const int32_t* document_offset, int64_t documents,
                          cudaStream_t stream) {
  list_attention_tiles_kernel<<<1, kListThreads, 0, stream>>>(tiles, tile_count, document_offset, documents);
  check_launch("list_attention_tiles_kernel");
}

void prepare_attention_rows(float2* statistics, bfloat16* d_query, bfloat16* d_key_value, float* d_key_rope,
                            const bfloat16* d_out, const bfloat16* out, const float* log_sum_exp,
                            const cpu::AttentionInputs<bfloat16>& in, int64_t tokens, cudaStream_t stream) {
  constexpr int kRows = kRowThreads / kRowLanes;
  const unsigned blocks = static_cast<unsigned>((tokens * in.heads + kRows - 1) / kRows);
  prepare_attention_rows_kernel<<<blocks, kRowThreads, 0, stream>>>(statistics, d_query, d_key_value, d_key_rope, d_out,
                                                                    out, log_sum_exp, in, tokens);
  check_launch("prepare_attention_rows_kernel");
}

}  // namespace deeptitan::cuda::sm90::attention_backward
