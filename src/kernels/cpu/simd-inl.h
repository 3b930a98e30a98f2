// What the vectorised kernels share: float vectors loaded from and stored to float and bfloat16 arrays, and loops over
// them. Compiled once for each Highway target (see hwy/foreach_target.h), hence the guard instead of #pragma once.
//
// A loop body is a generic lambda marked HWY_ATTR that takes `lanes`: AllLanes for a full vector, FirstLanes for the
// last, partial one. Both go through the same arithmetic, so that an element's result does not depend on its position.

#if defined(DT_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DT_KERNELS_CPU_SIMD_INL_H_
#undef DT_KERNELS_CPU_SIMD_INL_H_
#else
#define DT_KERNELS_CPU_SIMD_INL_H_
#endif

#include <cstdint>
#include <cstring>
#include <limits>

#include <hwy/highway.h>

#include "core/bfloat16.h"

HWY_BEFORE_NAMESPACE();
namespace deeptitan::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;
using Uint32Tag = hn::RebindToUnsigned<FloatTag>;
using Uint32Vec = hn::Vec<Uint32Tag>;
using Uint16Tag = hn::Rebind<uint16_t, FloatTag>;
using Uint16Vec = hn::Vec<Uint16Tag>;

inline constexpr int64_t kLanes = hn::MaxLanes(FloatTag());

struct AllLanes {};
struct FirstLanes {
  int64_t count;  // 1 ... kLanes - 1
};

/// The bits of each lane's nearest bfloat16 in the upper half, as to_bfloat16; the lower half is undefined.
HWY_INLINE Uint32Vec round_to_upper_half(FloatVec v) {
  const Uint32Tag tag;
  const Uint32Vec bits = hn::BitCast(tag, v);
  const Uint32Vec odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(tag, 1));
  const Uint32Vec rounded = hn::Add(bits, hn::Add(odd, hn::Set(tag, 0x7fff)));
  const Uint32Vec quiet = hn::Or(bits, hn::Set(tag, 0x400000));
  return hn::IfThenElse(hn::RebindMask(tag, hn::IsNaN(v)), quiet, rounded);
}

HWY_INLINE Uint16Vec to_bfloat16_bits(FloatVec v) {
  const hn::Repartition<uint16_t, FloatTag> halves_tag;
  const auto halves = hn::BitCast(halves_tag, round_to_upper_half(v));
  return hn::LowerHalf(hn::ConcatOdd(halves_tag, halves, halves));
}

HWY_INLINE FloatVec from_bfloat16_bits(Uint16Vec bits) {
  return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(hn::PromoteTo(Uint32Tag(), bits)));
}

HWY_INLINE FloatVec load(const float* p, AllLanes) {
  return hn::LoadU(FloatTag(), p);
}
HWY_INLINE FloatVec load(const float* p, FirstLanes lanes) {
  const FloatTag tag;
  return hn::MaskedLoad(hn::FirstN(tag, static_cast<size_t>(lanes.count)), tag, p);
}
HWY_INLINE FloatVec load(const bfloat16* p, AllLanes) {
  return from_bfloat16_bits(hn::LoadU(Uint16Tag(), reinterpret_cast<const uint16_t*>(p)));
}
HWY_INLINE FloatVec load(const bfloat16* p, FirstLanes lanes) {
  HWY_ALIGN uint16_t buffer[kLanes] = {};
  std::memcpy(buffer, p, static_cast<size_t>(lanes.count) * sizeof(uint16_t));
  return from_bfloat16_bits(hn::Load(Uint16Tag(), buffer));
}

HWY_INLINE void store(FloatVec v, float* p, AllLanes) {
  hn::StoreU(v, FloatTag(), p);
}
HWY_INLINE void store(FloatVec v, float* p, FirstLanes lanes) {
  const FloatTag tag;
  hn::BlendedStore(v, hn::FirstN(tag, static_cast<size_t>(lanes.count)), tag, p);
}
HWY_INLINE void store(FloatVec v, bfloat16* p, AllLanes) {
  hn::StoreU(to_bfloat16_bits(v), Uint16Tag(), reinterpret_cast<uint16_t*>(p));
}
HWY_INLINE void store(FloatVec v, bfloat16* p, FirstLanes lanes) {
  HWY_ALIGN uint16_t buffer[kLanes];
  hn::Store(to_bfloat16_bits(v), Uint16Tag(), buffer);
  std::memcpy(p, buffer, static_cast<size_t>(lanes.count) * sizeof(uint16_t));
}

/// v rounded to the element type it is about to be stored as.
HWY_INLINE FloatVec rounded_as(const float*, FloatVec v) {
  return v;
}
HWY_INLINE FloatVec rounded_as(const bfloat16*, FloatVec v) {
  const Uint32Tag tag;
  return hn::BitCast(FloatTag(), hn::And(round_to_upper_half(v), hn::Set(tag, 0xffff0000u)));
}

/// body(i, lanes) for each vector of [begin, end).
template <typename Body>
HWY_INLINE void for_vectors(int64_t begin, int64_t end, Body body) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, AllLanes());
  if (i < end) body(i, FirstLanes{end - i});
}

HWY_INLINE float sum_lanes(FloatVec v) {
  return hn::GetLane(hn::SumOfLanes(FloatTag(), v));
}
HWY_INLINE float max_lanes(FloatVec v) {
  return hn::GetLane(hn::MaxOfLanes(FloatTag(), v));
}

/// v in the lanes that hold elements, `other` in those past the end.
HWY_INLINE FloatVec or_else(FloatVec v, FloatVec, AllLanes) {
  return v;
}
HWY_INLINE FloatVec or_else(FloatVec v, FloatVec other, FirstLanes lanes) {
  return hn::IfThenElse(hn::FirstN(FloatTag(), static_cast<size_t>(lanes.count)), v, other);
}

/// The largest of x [n], minus infinity for none; a NaN may be passed over.
HWY_INLINE float max_of(const float* x, int64_t n) {
  const FloatVec lowest = hn::Set(FloatTag(), -std::numeric_limits<float>::infinity());
  FloatVec max0 = lowest, max1 = lowest;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    max0 = hn::Max(max0, load(x + i, AllLanes()));
    max1 = hn::Max(max1, load(x + i + kLanes, AllLanes()));
  }
  for_vectors(
      i, n, [&](int64_t j, auto lanes) HWY_ATTR { max0 = hn::Max(max0, or_else(load(x + j, lanes), lowest, lanes)); });
  return max_lanes(hn::Max(max0, max1));
}

/// The sum of the lanes of accumulate(accumulator, i, lanes) carried through [0, n), in an order that n alone decides.
/// Lanes past the end must add zero: loads give zero there. Four accumulators hide the latency of the addition.
template <typename Accumulate>
HWY_INLINE float sum_vectors(int64_t n, Accumulate accumulate) {
  FloatVec sum0 = hn::Zero(FloatTag()), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    sum0 = accumulate(sum0, i, AllLanes());
    sum1 = accumulate(sum1, i + kLanes, AllLanes());
    sum2 = accumulate(sum2, i + 2 * kLanes, AllLanes());
    sum3 = accumulate(sum3, i + 3 * kLanes, AllLanes());
  }
  for (; i + kLanes <= n; i += kLanes) sum0 = accumulate(sum0, i, AllLanes());
  if (i < n) sum1 = accumulate(sum1, i, FirstLanes{n - i});
  return sum_lanes(hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3)));
}

}  // namespace HWY_NAMESPACE
}  // namespace deeptitan::cpu
HWY_AFTER_NAMESPACE();

#endif  // DT_KERNELS_CPU_SIMD_INL_H_
