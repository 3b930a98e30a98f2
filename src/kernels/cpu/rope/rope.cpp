#include "kernels/cpu/rope/rope.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rope/rope.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace deeptitan::cpu {
namespace HWY_NAMESPACE {

/// A vector of pairs: the even and the odd elements of 2 * kLanes neighbours.
struct PairVec {
  FloatVec even;
  FloatVec odd;
};

HWY_INLINE PairVec load_pairs(const float* x) {
  PairVec pairs;
  hn::LoadInterleaved2(FloatTag(), x, pairs.even, pairs.odd);
  return pairs;
}
HWY_INLINE void store_pairs(PairVec pairs, float* x) {
  hn::StoreInterleaved2(pairs.even, pairs.odd, FloatTag(), x);
}

// Two bfloat16 are one little-endian 32-bit lane, the even one in its lower half.
HWY_INLINE PairVec load_pairs(const bfloat16* x) {
  const Uint32Tag tag;
  const Uint32Vec both = hn::LoadU(tag, reinterpret_cast<const uint32_t*>(x));
  return {hn::BitCast(FloatTag(), hn::ShiftLeft<16>(both)),
          hn::BitCast(FloatTag(), hn::And(both, hn::Set(tag, 0xffff0000u)))};
}
HWY_INLINE void store_pairs(PairVec pairs, bfloat16* x) {
  const Uint32Tag tag;
  const Uint32Vec even = hn::ShiftRight<16>(round_to_upper_half(pairs.even));
  const Uint32Vec odd = hn::And(round_to_upper_half(pairs.odd), hn::Set(tag, 0xffff0000u));
  hn::StoreU(hn::Or(even, odd), tag, reinterpret_cast<uint32_t*>(x));
}

/// Rotates kLanes pairs by angles whose cosines and (signed) sines are given.
template <typename T>
HWY_INLINE void rotate_pairs(T* x, FloatVec cos, FloatVec sin) {
  const PairVec in = load_pairs(x);
  store_pairs({hn::NegMulAdd(in.odd, sin, hn::Mul(in.even, cos)), hn::MulAdd(in.odd, cos, hn::Mul(in.even, sin))}, x);
}

/// The same for pairs that are `half` elements apart.
template <typename T, class Lanes>
HWY_INLINE void rotate_halves(T* x, int64_t half, FloatVec cos, FloatVec sin, Lanes lanes) {
  const FloatVec low = load(x, lanes);
  const FloatVec high = load(x + half, lanes);
  store(hn::NegMulAdd(high, sin, hn::Mul(low, cos)), x, lanes);
  store(hn::MulAdd(high, cos, hn::Mul(low, sin)), x + half, lanes);
}

template <typename T>
void rope_rotate_halves(T* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim, const float* cos,
                        const float* sin, const int32_t* positions, int64_t rows, bool inverse) {
  const int64_t half = dim / 2;
  const FloatVec sign = hn::Set(FloatTag(), inverse ? -1.0f : 1.0f);
  for (int64_t r = 0; r < rows; ++r) {
    if (positions[r] < 0) continue;
    T* row = x + r * row_stride;
    const float* cos_row = cos + positions[r] * half;
    const float* sin_row = sin + positions[r] * half;
    for_vectors(0, half, [&](int64_t i, auto lanes) HWY_ATTR {
      const FloatVec c = load(cos_row + i, lanes);
      const FloatVec s = hn::Mul(load(sin_row + i, lanes), sign);
      for (int64_t h = 0; h < heads; ++h) rotate_halves(row + h * head_stride + i, half, c, s, lanes);
    });
  }
}

template <typename T>
void rope_rotate_neighbours(T* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim, const float* cos,
                            const float* sin, const int32_t* positions, int64_t rows, bool inverse) {
  const int64_t pairs = dim / 2;
  const FloatVec sign = hn::Set(FloatTag(), inverse ? -1.0f : 1.0f);
  for (int64_t r = 0; r < rows; ++r) {
    if (positions[r] < 0) continue;
    T* row = x + r * row_stride;
    const float* cos_row = cos + positions[r] * pairs;
    const float* sin_row = sin + positions[r] * pairs;
    int64_t i = 0;
    for (; i + kLanes <= pairs; i += kLanes) {
      const FloatVec c = load(cos_row + i, AllLanes());
      const FloatVec s = hn::Mul(load(sin_row + i, AllLanes()), sign);
      for (int64_t h = 0; h < heads; ++h) rotate_pairs(row + h * head_stride + 2 * i, c, s);
    }
    if (i == pairs) continue;
    const FirstLanes lanes{pairs - i};
    const FloatVec c = load(cos_row + i, lanes);
    const FloatVec s = hn::Mul(load(sin_row + i, lanes), sign);
    for (int64_t h = 0; h < heads; ++h) {
      T* last = row + h * head_stride + 2 * i;
      T buffer[2 * kLanes] = {};
      std::memcpy(buffer, last, static_cast<size_t>(2 * lanes.count) * sizeof(T));
      rotate_pairs(buffer, c, s);
      std::memcpy(last, buffer, static_cast<size_t>(2 * lanes.count) * sizeof(T));
    }
  }
}

// Dispatch tables are made by name: one for each element type and kind of pairs.
constexpr auto& rope_rotate_neighbours_f32 = rope_rotate_neighbours<float>;
constexpr auto& rope_rotate_neighbours_bf16 = rope_rotate_neighbours<bfloat16>;
constexpr auto& rope_rotate_halves_f32 = rope_rotate_halves<float>;
constexpr auto& rope_rotate_halves_bf16 = rope_rotate_halves<bfloat16>;

}  // namespace HWY_NAMESPACE
}  // namespace deeptitan::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/cpu/parallel.h"

namespace deeptitan::cpu {
namespace {

HWY_EXPORT(rope_rotate_neighbours_f32);
HWY_EXPORT(rope_rotate_neighbours_bf16);
HWY_EXPORT(rope_rotate_halves_f32);
HWY_EXPORT(rope_rotate_halves_bf16);

template <typename T, typename Kernel>
void rope_rotate_parallel(Kernel kernel, T* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim,
                          const float* cos, const float* sin, const int32_t* positions, int64_t rows, bool inverse) {
  if (heads <= 0 || dim <= 0) return;
  parallel_ranges(rows, 2 * rows * heads * dim, 1, [=](int64_t begin, int64_t end) {
    kernel(x + begin * row_stride, row_stride, heads, head_stride, dim, cos, sin, positions + begin, end - begin,
           inverse);
  });
}

}  // namespace

void rope_rotate(float* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim, const float* cos,
                 const float* sin, const int32_t* positions, int64_t rows, bool inverse, RopePairs pairs) {
  const auto kernel = pairs == RopePairs::kHalves ? HWY_DYNAMIC_DISPATCH(rope_rotate_halves_f32)
                                                  : HWY_DYNAMIC_DISPATCH(rope_rotate_neighbours_f32);
  rope_rotate_parallel(kernel, x, row_stride, heads, head_stride, dim, cos, sin, positions, rows, inverse);
}

void rope_rotate(bfloat16* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim, const float* cos,
                 const float* sin, const int32_t* positions, int64_t rows, bool inverse, RopePairs pairs) {
  const auto kernel = pairs == RopePairs::kHalves ? HWY_DYNAMIC_DISPATCH(rope_rotate_halves_bf16)
                                                  : HWY_DYNAMIC_DISPATCH(rope_rotate_neighbours_bf16);
  rope_rotate_parallel(kernel, x, row_stride, heads, head_stride, dim, cos, sin, positions, rows, inverse);
}

}  // namespace deeptitan::cpu
#endif  // HWY_ONCE
