// The exponential of float vectors, for the softmax and the sigmoid. Compiled once for each Highway target.

#if defined(DT_KERNELS_CPU_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DT_KERNELS_CPU_EXP_INL_H_
#undef DT_KERNELS_CPU_EXP_INL_H_
#else
#define DT_KERNELS_CPU_EXP_INL_H_
#endif

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace deeptitan::cpu {
namespace HWY_NAMESPACE {

/// exp(x) within 2 units in the last place; 0 from about -87.7 downwards, where float would be subnormal; infinity from
/// about 88.4 upwards; NaN stays NaN.
///
/// x = k ln 2 + r with k an integer and |r| <= ln 2 / 2, and exp(x) = 2^k exp(r). exp(r) = 1 + r + r^2 P(r), P of
/// degree 4 with coefficients fitted to the least largest relative error, 3.1e-9.
HWY_INLINE FloatVec exp(FloatVec x) {
  const FloatTag tag;
  const FloatVec one = hn::Set(tag, 1.0f);
  // From -88 (k = -127) to 88.5 (k = 128). x86 gives the second operand where one is NaN.
  x = hn::Min(hn::Set(tag, 88.5f), hn::Max(hn::Set(tag, -88.0f), x));
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits, here k + 127: the exponent field of 2^k,
  // which is 0 for k = -127 and that of infinity for k = 128.
  const FloatVec magic = hn::Set(tag, 12582912.0f + 127.0f);
  const FloatVec shifted = hn::MulAdd(x, hn::Set(tag, 1.44269504088896341f), magic);
  const FloatVec power = hn::BitCast(tag, hn::ShiftLeft<23>(hn::BitCast(Uint32Tag(), shifted)));
  const FloatVec k = hn::Sub(shifted, magic);
  // ln 2 in two parts: the first has few bits, so that its product with k is exact.
  FloatVec r = hn::NegMulAdd(k, hn::Set(tag, 0.693359375f), x);
  r = hn::NegMulAdd(k, hn::Set(tag, -2.12194440e-4f), r);
  FloatVec polynomial = hn::MulAdd(r, hn::Set(tag, 0.00138145401f), hn::Set(tag, 0.00836874521f));
  polynomial = hn::MulAdd(polynomial, r, hn::Set(tag, 0.0416683908f));
  polynomial = hn::MulAdd(polynomial, r, hn::Set(tag, 0.166665204f));
  polynomial = hn::MulAdd(polynomial, r, hn::Set(tag, 0.499999934f));
  polynomial = hn::MulAdd(polynomial, r, one);
  polynomial = hn::MulAdd(polynomial, r, one);
  return hn::Mul(polynomial, power);
}

}  // namespace HWY_NAMESPACE
}  // namespace deeptitan::cpu
HWY_AFTER_NAMESPACE();

#endif  // DT_KERNELS_CPU_EXP_INL_H_
