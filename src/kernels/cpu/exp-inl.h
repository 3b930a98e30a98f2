// The exponential of float vectors, for the softmax and the sigmoid. Compiled once for each Highway target.

#if defined(DT_KERNELS_CPU_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DT_KERNELS_CPU_EXP_INL_H_
#undef DT_KERNELS_CPU_EXP_INL_H_
#else
#define DT_KERNELS_CPU_EXP_INL_H_
#endif

#include <limits>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace deeptitan::cpu {
namespace HWY_NAMESPACE {

/// exp(x) within 2 units in the last place; 0 from about -87.3 downwards, where float would be subnormal; infinity from
/// about 88.7 upwards; NaN stays NaN.
///
/// x = k ln 2 + r with k an integer and |r| <= ln 2 / 2; exp(x) = 2^k exp(r), exp(r) by its Taylor polynomial of
/// degree 7, whose remainder (ln 2 / 2)^8 / 8! is 5e-9.
HWY_INLINE FloatVec exp(FloatVec x) {
  const FloatTag tag;
  const hn::RebindToSigned<FloatTag> int_tag;
  const FloatVec one = hn::Set(tag, 1.0f);
  const FloatVec k = hn::Round(hn::Mul(x, hn::Set(tag, 1.44269504088896341f)));
  // ln 2 in two parts: the first has few bits, so that its product with k is exact.
  FloatVec r = hn::NegMulAdd(k, hn::Set(tag, 0.693359375f), x);
  r = hn::NegMulAdd(k, hn::Set(tag, -2.12194440e-4f), r);
  FloatVec polynomial = hn::MulAdd(r, hn::Set(tag, 1.0f / 5040), hn::Set(tag, 1.0f / 720));
  polynomial = hn::MulAdd(polynomial, r, hn::Set(tag, 1.0f / 120));
  polynomial = hn::MulAdd(polynomial, r, hn::Set(tag, 1.0f / 24));
  polynomial = hn::MulAdd(polynomial, r, hn::Set(tag, 1.0f / 6));
  polynomial = hn::MulAdd(polynomial, r, hn::Set(tag, 0.5f));
  polynomial = hn::MulAdd(polynomial, r, one);
  polynomial = hn::MulAdd(polynomial, r, one);
  // The exponent of the result is added to the polynomial's own, which is -1 or 0.
  const auto shifted = hn::ShiftLeft<23>(hn::ConvertTo(int_tag, k));
  FloatVec result = hn::BitCast(tag, hn::Add(hn::BitCast(int_tag, polynomial), shifted));
  result =
      hn::IfThenElse(hn::Gt(x, hn::Set(tag, 88.72283f)), hn::Set(tag, std::numeric_limits<float>::infinity()), result);
  result = hn::IfThenElse(hn::Lt(x, hn::Set(tag, -87.33654f)), hn::Zero(tag), result);
  return hn::IfThenElse(hn::IsNaN(x), x, result);
}

}  // namespace HWY_NAMESPACE
}  // namespace deeptitan::cpu
HWY_AFTER_NAMESPACE();

#endif  // DT_KERNELS_CPU_EXP_INL_H_
