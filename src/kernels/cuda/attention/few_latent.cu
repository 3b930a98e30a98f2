#include "kernels/cuda/attention/few_latent.h"

#include "kernels/cuda/attention/latent_partials.cuh"
#include "kernels/cuda/attention/latent_tiles.h"
#include "kernels/cuda/matmul/few_rows.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kLatent = 512;

struct Pair {
  float first;
  float second;
};
__device__ __forceinline__ Pair load_pair(const bfloat16* p) {
  const uint32_t word = *reinterpret_cast<const uint32_t*>(p);
  return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
}

/// Pair `pair` of `to` = that of `from`, rotated as rope_rotate does; as it is where the position is negative.
__device__ __forceinline__ void rotate_pair(bfloat16* to, const bfloat16* from, int64_t pairs, int64_t pair,
                                            bool halves, int64_t position, const float* cos, const float* sin) {
  const int64_t first = halves ? pair : 2 * pair, second = first + (halves ? pairs : 1);
  if (position < 0) {
    to[first] = from[first], to[second] = from[second];
    return;
  }
  const float c = cos[position * pairs + pair], s = sin[position * pairs + pair];
  const float a = to_float(from[first]), b = to_float(from[second]);
  store_rounded(to + first, exact_fma(-b, s, exact_mul(a, c)));
  store_rounded(to + second, exact_fma(b, c, exact_mul(a, s)));
}

/// The entry of a token, by a block: normed latent and rotated key.
__device__ void enter_latent(const EnteredLatents& in, int64_t rope_dim, int64_t token, float* shared) {
  const int64_t pairs = rope_dim / 2, position = in.positions[token];
  const bfloat16* row = in.kv_latent + token * in.ld_latent;
  const Pair x = load_pair(row + 2 * threadIdx.x);
  const float rstd =
      1.0f / sqrtf(block_sum<kThreads>(x.first * x.first + x.second * x.second, shared) / static_cast<float>(kLatent) +
                   in.epsilon);
  const int64_t entry = in.slot[token];
  if (entry < 0 || entry >= in.entries) return;
  bfloat16* out = in.cache + entry * (kLatent + rope_dim);
  const float2 scale = *reinterpret_cast<const float2*>(in.norm_weight + 2 * threadIdx.x);
  *reinterpret_cast<uint32_t*>(out + 2 * threadIdx.x) = pack_bf16(x.first * rstd * scale.x, x.second * rstd * scale.y);
  if (threadIdx.x < pairs) {
    rotate_pair(out + kLatent, row + kLatent, pairs, threadIdx.x, in.halves, position, in.cos, in.sin);
  }
}

// Of a block of queries: 64 columns, eight a thread; a row of the weight for eight threads at once.
constexpr int kColumns = 64;
constexpr int kColumnThreads = kColumns / kFewVector;
constexpr int kGroups = kThreads / kColumnThreads;
constexpr int kRowsOfGroup = 4;
constexpr int64_t kMostNope = kGroups * kRowsOfGroup;

/// Block (columns / 64, head). Thread group g adds up the rows g, g + 32, g + 64 and g + 96; then the groups are added.
/// The blocks behind the last head have the tokens' entries.
__global__ void __launch_bounds__(kThreads) absorb_queries_kernel(const FewLatentTokens in) {
  __shared__ float of_warp[kWarps][kColumns];
  if (blockIdx.y == in.entries.heads) {
    wait_for_launch_before();
    let_next_launch_begin();
    for (int64_t token = blockIdx.x; token < in.entries.tokens; token += gridDim.x) {
      enter_latent(in.entered, in.entries.rope_dim, token, of_warp[0]);
    }
    return;
  }
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int group = threadIdx.x / kColumnThreads;
  const int64_t head = blockIdx.y, rope = in.entries.rope_dim, heads = in.entries.heads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kColumns;
  const bfloat16* w =
      in.key_weight + (head * in.nope_dim + group) * kLatent + first + lane % kColumnThreads * kFewVector;
  uint4 held[kRowsOfGroup];
#pragma unroll
  for (int i = 0; i < kRowsOfGroup; ++i) {
    held[i] = group + i * kGroups < in.nope_dim ? load_weight(w + i * kGroups * kLatent) : uint4{0, 0, 0, 0};
  }
  wait_for_launch_before();
  let_next_launch_begin();  // only now: the next launch reads older entries before it waits for this one
  for (int64_t token = 0; token < in.entries.tokens; ++token) {
    const bfloat16* q = in.query + token * in.ld_query + head * (in.nope_dim + rope);
    bfloat16* out = in.latent_query + (token * heads + head) * (kLatent + rope);
    float sum[kFewVector] = {};
#pragma unroll
    for (int i = 0; i < kRowsOfGroup; ++i) {
      if (group + i * kGroups >= in.nope_dim) break;
      const float factor = to_float(q[group + i * kGroups]);
      const uint32_t pairs[4] = {held[i].x, held[i].y, held[i].z, held[i].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sum[2 * j] = exact_fma(factor, __uint_as_float(pairs[j] << 16), sum[2 * j]);
        sum[2 * j + 1] = exact_fma(factor, __uint_as_float(pairs[j] & 0xffff0000u), sum[2 * j + 1]);
      }
    }
#pragma unroll
    for (int j = 0; j < kFewVector; ++j) {
#pragma unroll
      for (int width = kColumnThreads; width < kWarp; width *= 2) {
        sum[j] = exact_add(sum[j], __shfl_xor_sync(kAllLanes, sum[j], width));
      }
      if (lane < kColumnThreads) of_warp[warp][lane * kFewVector + j] = sum[j];
    }
    __syncthreads();
    if (threadIdx.x < kColumns) {
      float total = of_warp[0][threadIdx.x];
#pragma unroll
      for (int i = 1; i < kWarps; ++i) total = exact_add(total, of_warp[i][threadIdx.x]);
      store_rounded(out + first + threadIdx.x, total);
    } else if (blockIdx.x == 0) {
      for (int64_t pair = threadIdx.x - kColumns; pair < rope / 2; pair += kThreads - kColumns) {
        rotate_pair(out + kLatent, q + in.nope_dim, rope / 2, pair, in.entered.halves, in.entered.positions[token],
                    in.entered.cos, in.entered.sin);
      }
    }
    __syncthreads();
  }
}

constexpr int kValueColumns = 4;  // of a warp
constexpr int kBlockValues = kWarps * kValueColumns;

/// Block (value columns / 32, head, token): adds up the splits in their order, then a warp multiplies four columns.
__global__ void __launch_bounds__(kThreads) values_of_splits_kernel(const FewLatentTokens in, LatentPartials partial) {
  __shared__ float factors[kMostLatentSplits];
  __shared__ __align__(16) bfloat16 latents[kLatent];
  let_next_launch_begin();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t head = blockIdx.y, token = blockIdx.z, heads = in.entries.heads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlockValues + warp * kValueColumns;
  const bfloat16* w[kValueColumns];
  const bfloat16* x[kValueColumns];
#pragma unroll
  for (int c = 0; c < kValueColumns; ++c) {
    w[c] = in.value_weight + (head * in.value_dim + first + c) * kLatent;
    x[c] = latents;
  }
  ColumnDots<kValueColumns, kLatent / kFewStride> dots;
  dots.begin(w, kLatent, lane);
  int64_t sequence = 0;
  const int64_t visible = visible_entries(in.entries, token, sequence);
  const auto of_split = static_cast<uint32_t>(partial.entries_of_split);
  const auto splits = static_cast<int>((static_cast<uint32_t>(visible) + of_split - 1) / of_split);
  wait_for_launch_before();
  const auto place = [&](int64_t split) { return (token * partial.splits + split) * heads + head; };
  if (warp == 0) {
    float max = -INFINITY;
    for (int split = lane; split < splits; split += kWarp) {
      const float of_split = partial.statistics[2 * place(split)];
      max = of_split > max || of_split != of_split ? of_split : max;
    }
#pragma unroll
    for (int width = kWarp / 2; width >= 1; width /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, max, width);
      max = other > max || other != other ? other : max;
    }
    float total = 0;
    for (int split = lane; split < splits; split += kWarp) {
      const float factor = exp2f(partial.statistics[2 * place(split)] - max);
      total = exact_fma(factor, partial.statistics[2 * place(split) + 1], total);
      factors[split] = factor;
    }
    total = warp_sum(total);
    __syncwarp();
    for (int split = lane; split < splits; split += kWarp) factors[split] /= total;
  }
  __syncthreads();
  float2 sum = {0, 0};
  const float* from = partial.latents + place(0) * kLatent + 2 * threadIdx.x;
#pragma unroll 8
  for (int split = 0; split < splits; ++split) {
    const float2 part = *reinterpret_cast<const float2*>(from + split * heads * kLatent);
    sum.x = exact_fma(factors[split], part.x, sum.x);
    sum.y = exact_fma(factors[split], part.y, sum.y);
  }
  *reinterpret_cast<uint32_t*>(latents + 2 * threadIdx.x) = pack_bf16(sum.x, sum.y);
  __syncthreads();
  float value[kValueColumns];
  dots.finish(value, x, w, kLatent, lane);
  if (lane != 0) return;
#pragma unroll
  for (int c = 0; c < kValueColumns; ++c) {
    store_rounded(in.out + (token * heads + head) * in.value_dim + first + c, visible > 0 ? value[c] : 0.0f);
  }
}

}  // namespace

bool few_latent_fit(const FewLatentTokens& in) {
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  return in.entries.tokens <= kFewLatentTokens && latent_tiles_fit(in.entries) && in.nope_dim <= kMostNope &&
         in.value_dim % kBlockValues == 0 && aligned(in.key_weight) && aligned(in.value_weight) &&
         aligned(in.entered.norm_weight) && reinterpret_cast<uintptr_t>(in.entered.kv_latent) % 4 == 0 &&
         in.entered.ld_latent % 2 == 0;
}

void few_latent_attention(const FewLatentTokens& in, int64_t capacity, float* workspace, cudaStream_t stream) {
  static_assert(kLatent == 2 * kThreads);
  const auto heads = static_cast<unsigned>(in.entries.heads), tokens = static_cast<unsigned>(in.entries.tokens);
  if (tokens == 0 || heads == 0) return;
  launch_dependent(absorb_queries_kernel, "absorb_queries_kernel", dim3(kLatent / kColumns, heads + 1), kThreads, 0,
                   stream, in);
  const auto add_up = in.by_warpgroups ? sm90_add_up_entries : add_up_tiles;
  const LatentPartials partial = add_up(in.entries, capacity, workspace, stream);
  launch_dependent(values_of_splits_kernel, "values_of_splits_kernel",
                   dim3(static_cast<unsigned>(in.value_dim / kBlockValues), heads, tokens), kThreads, 0, stream, in,
                   partial);
}

}  // namespace deeptitan::cuda
