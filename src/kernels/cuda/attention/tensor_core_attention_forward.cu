// S = Q K^T; P = softmax(S); O += P V. P is rounded to bf16 for its product, sums are fp32.

#include "core/error.h"
#include "kernels/cuda/attention/tensor_core_attention.cuh"

namespace deeptitan::cuda {
namespace tensor_core_attention {
namespace {

template <int kKeyDim, int kValueDim>
__global__ void __launch_bounds__(kThreads, 1)
    tensor_core_attention_forward_kernel(bfloat16* out, float* log_sum_exp, Inputs in, int64_t tokens) {
  using T = Tiles<kKeyDim, kValueDim>;
  extern __shared__ __align__(128) char shared[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t head = blockIdx.y;
  const int64_t q0 = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * kRows;  // the longest first
  const uint32_t base = shared_address(shared);

  // The queries stay in registers; their tile is where the keys come later.
  static_assert(T::key_bytes(kRows) <= 2 * (T::key_bytes(kKeys) + T::value_bytes(kKeys)));
  load_rows<kRows, kKeyDim, T::kKeyStride>(base, in.query + head * kKeyDim, in.heads * kKeyDim, q0, tokens);
  copy_async_commit();
  const SeenKeys<kKeyDim, kValueDim> seen(in, base, head, q0, tokens, warp, lane);
  copy_async_wait<0>();
  __syncthreads();
  uint32_t query[kKeyDim / 16][4];
#pragma unroll
  for (int k = 0; k < kKeyDim / 16; ++k) {
    load_a<T::kKeyStride>(query[k], base + 2 * warp * 16 * T::kKeyStride, k * 16, lane);
  }
  __syncthreads();

  float acc[kValueDim / 8][4];
  clear(acc);
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  const float scale = in.scale * kLog2E;
  seen.for_each([&](int tile) {
    float s[kKeys / 8][4];
    clear(s);
#pragma unroll
    for (int k = 0; k < kKeyDim / 16; ++k) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; n += 2) {
        uint32_t b[4];
        load_b_of_rows<T::kKeyStride>(b, seen.key_tile(tile), n * 8, k * 16, lane);
        mma_bf16(s[n], query[k], b[0], b[1]);
        mma_bf16(s[n + 1], query[k], b[2], b[3]);
      }
    }
    seen.hide(s, tile, lane, -INFINITY);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float new_max = -INFINITY;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) new_max = fmaxf(new_max, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      new_max = fmaxf(max[half], quad_max(new_max));
      const float subtracted = new_max == -INFINITY ? 0.0f : new_max * scale;  // a row that has seen nothing yet
      const float correction = exp2_fast(max[half] * scale - subtracted);
      max[half] = new_max;
      float tile_sum = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          s[n][i] = exp2_fast(fmaf(s[n][i], scale, -subtracted));
          tile_sum += s[n][i];
        }
      }
      sum[half] = sum[half] * correction + tile_sum;
#pragma unroll
      for (int n = 0; n < kValueDim / 8; ++n) {
        acc[n][2 * half] *= correction;
        acc[n][2 * half + 1] *= correction;
      }
    }
    uint32_t p[kKeys / 16][4];
    pack(p, s);
    multiply_packed<T::kValueStride>(acc, p, seen.value_tile(tile), lane);
  });
  const int64_t count = tokens - (q0 + warp * 16);
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = quad_sum(sum[half]);
    const bool held = half == 0 ? seen.low.first <= seen.row : seen.high.first <= seen.row + 8;
    inverse[half] = held ? 1.0f / total : 0.0f;
    if (log_sum_exp != nullptr && lane % 4 == 0 && lane / 4 + 8 * half < count) {
      log_sum_exp[(seen.row + 8 * half) * in.heads + head] = held ? max[half] * in.scale + logf(total) : 0.0f;
    }
  }
  const int64_t stride = in.heads * kValueDim;
  store_rows(out + (q0 + warp * 16) * stride + head * kValueDim, stride, acc, inverse[0], inverse[1], count, lane);
}

bool aligned(const bfloat16* pointer, int64_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % 8 == 0;
}

}  // namespace
}  // namespace tensor_core_attention

bool tensor_core_attention_fits(const cpu::AttentionInputs<bfloat16>& in) {
  using namespace tensor_core_attention;
  if (!aligned(in.query, 8) || !aligned(in.key_value, 8) || !aligned(in.key_rope, in.ld_key_rope)) return false;
  static const int most_shared = [] {
    int device = 0, bytes = 0;
    DT_CUDA_CHECK(cudaGetDevice(&device));
    DT_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    return bytes;
  }();
  int needed = 0;
  const bool found = with_head(in, [&](auto head) {
    using Head = decltype(head);
    needed = SharedBytes<Head::kKeyDim, Head::kValueDim>::kMost;
  });
  return found && needed <= most_shared;
}

void tensor_core_attention_forward(bfloat16* out, float* log_sum_exp, const cpu::AttentionInputs<bfloat16>& in,
                                   int64_t tokens, cudaStream_t stream) {
  using namespace tensor_core_attention;
  if (tokens <= 0 || in.heads <= 0) return;
  const bool found = with_head(in, [&](auto head) {
    using Head = decltype(head);
    launch(tensor_core_attention_forward_kernel<Head::kKeyDim, Head::kValueDim>, "tensor_core_attention_forward_kernel",
           SharedBytes<Head::kKeyDim, Head::kValueDim>::kLoop, in, tokens, stream, out, log_sum_exp, in, tokens);
  });
  DT_CHECK(found, "attention on tensor cores has no kernel for heads of {} and {}", in.nope_dim + in.rope_dim,
           in.value_dim);
}

}  // namespace deeptitan::cuda
