#include "kernels/cuda/attention/enter_latents.h"

#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/cuda/warp.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kEach = 8;                   // neighbours of a lane
constexpr int kPartWidth = kWarp * kEach;  // columns that a warp holds at once
constexpr int kPairsOfLane = kEach / 2;
static_assert(kPairsOfLane == kVector);

struct Eight {
  Floats<kVector> low, high;
};
__device__ Eight load_eight(const bfloat16* at) {
  const uint4 word = *reinterpret_cast<const uint4*>(at);
  const auto floats = [](uint32_t a, uint32_t b) {
    return Floats<kVector>{{__uint_as_float(a << 16), __uint_as_float(a & 0xffff0000u), __uint_as_float(b << 16),
                            __uint_as_float(b & 0xffff0000u)}};
  };
  return {floats(word.x, word.y), floats(word.z, word.w)};
}
__device__ void store_eight(bfloat16* at, const Eight& x) {
  const auto word = [](float a, float b) {
    return to_bfloat16(a).bits | static_cast<uint32_t>(to_bfloat16(b).bits) << 16;
  };
  *reinterpret_cast<uint4*>(at) = make_uint4(word(x.low.at[0], x.low.at[1]), word(x.low.at[2], x.low.at[3]),
                                             word(x.high.at[0], x.high.at[1]), word(x.high.at[2], x.high.at[3]));
}

/// The `group`-th four pairs of a head's rope part, rotated as rope_rotate does; at `from` and, rotated, at `to`.
/// Without a position they are copied.
template <bool kHalves>
__device__ void rotate_pairs(bfloat16* to, const bfloat16* from, int group, int pairs, const float* cos,
                             const float* sin, bool placed) {
  const int first = kHalves ? group * kVector : group * kEach;
  const int second = kHalves ? pairs + first : first + kVector;
  Eight x{load_floats<kVector>(from + first), load_floats<kVector>(from + second)};
  if (placed) {
    const Floats<kVector> c = load_floats<kVector>(cos + group * kVector);
    const Floats<kVector> s = load_floats<kVector>(sin + group * kVector);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      float* const all[2] = {x.low.at, x.high.at};
      float& a = kHalves ? x.low.at[i] : all[i / 2][2 * (i % 2)];
      float& b = kHalves ? x.high.at[i] : all[i / 2][2 * (i % 2) + 1];
      const float turned = exact_fma(-b, s.at[i], exact_mul(a, c.at[i]));
      b = exact_fma(b, c.at[i], exact_mul(a, s.at[i]));
      a = turned;
    }
  }
  store_floats(to + first, x.low);
  store_floats(to + second, x.high);
}

/// A warp a token: its latents in registers, kParts times 256 of them; four pairs of a head a lane.
template <bool kHalves, int kParts>
__global__ void __launch_bounds__(kThreads) enter_latents_kernel(const EnteredPrompt in) {
  const EnteredLatents& to = in.entered;
  let_next_launch_begin();
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (token >= in.tokens) return;
  const int lane = threadIdx.x % kWarp;
  wait_for_launch_before();
  const int64_t position = to.positions[token];
  const int64_t entry = to.slot[token];
  const int pairs = static_cast<int>(in.rope_dim) / 2, groups = pairs / kVector;
  const bool placed = position >= 0;
  const float* cos = to.cos + (placed ? position : 0) * pairs;
  const float* sin = to.sin + (placed ? position : 0) * pairs;

  const bfloat16* row = to.kv_latent + token * to.ld_latent;
  const bool kept = entry >= 0 && entry < to.entries;
  Eight x[kParts];
  if (kept) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) x[part] = load_eight(row + part * kPartWidth + lane * kEach);
  }
  if (placed) {
    for (int64_t i = lane; i < in.heads * groups; i += kWarp) {
      bfloat16* head = in.query + token * in.ld_query + i / groups * (in.nope_dim + in.rope_dim) + in.nope_dim;
      rotate_pairs<kHalves>(head, head, static_cast<int>(i % groups), pairs, cos, sin, true);
    }
  }
  if (!kept) return;

  // In the order of rms_norm's sums.
  float squares = 0;
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    float of_lane = 0;
#pragma unroll
    for (int i = 0; i < kVector; ++i) of_lane += x[part].low.at[i] * x[part].low.at[i];
#pragma unroll
    for (int i = 0; i < kVector; ++i) of_lane += x[part].high.at[i] * x[part].high.at[i];
    squares += warp_sum(of_lane);
  }
  const float rstd = 1.0f / sqrtf(squares / static_cast<float>(in.latent_dim) + to.epsilon);
  bfloat16* out = to.cache + entry * (in.latent_dim + in.rope_dim);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const int column = part * kPartWidth + lane * kEach;
    const Floats<kVector> low = load_floats<kVector>(to.norm_weight + column);
    const Floats<kVector> high = load_floats<kVector>(to.norm_weight + column + kVector);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      x[part].low.at[i] = x[part].low.at[i] * rstd * low.at[i];
      x[part].high.at[i] = x[part].high.at[i] * rstd * high.at[i];
    }
    store_eight(out + column, x[part]);
  }
  for (int group = lane; group < groups; group += kWarp) {
    rotate_pairs<kHalves>(out + in.latent_dim, row + in.latent_dim, group, pairs, cos, sin, placed);
  }
}

template <bool kHalves>
auto kernel_of(int64_t parts) {
  return parts == 1   ? enter_latents_kernel<kHalves, 1>
         : parts == 2 ? enter_latents_kernel<kHalves, 2>
                      : enter_latents_kernel<kHalves, 4>;
}

}  // namespace

bool enter_latents_fit(const EnteredPrompt& in) {
  const EnteredLatents& to = in.entered;
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  const int64_t parts = in.latent_dim / kPartWidth;
  return in.latent_dim % kPartWidth == 0 && (parts == 1 || parts == 2 || parts == 4) && in.rope_dim % kEach == 0 &&
         in.nope_dim % kEach == 0 && in.ld_query % kEach == 0 && to.ld_latent % kEach == 0 && aligned(to.cache) &&
         aligned(in.query) && aligned(to.kv_latent) && aligned(to.norm_weight) && aligned(to.cos) && aligned(to.sin);
}

void enter_latents(const EnteredPrompt& in, cudaStream_t stream) {
  if (in.tokens <= 0) return;
  const int64_t parts = in.latent_dim / kPartWidth;
  launch_dependent(in.entered.halves ? kernel_of<true>(parts) : kernel_of<false>(parts), "enter_latents_kernel",
                   dim3(static_cast<unsigned>((in.tokens + kWarps - 1) / kWarps)), kThreads, 0, stream, in);
}

}  // namespace deeptitan::cuda
