#include "kernels/cpu/matmul/panel_kernel.h"

#include <immintrin.h>

namespace deeptitan::cpu::avx512 {
namespace {

#include "kernels/cpu/matmul/panel_vector_avx512.inl"

constexpr bool kStoresBfloat16 = false;
constexpr bool kMultipliesBfloat16 = false;
constexpr int kPeakSums = 24;
[[maybe_unused]] inline void store_bfloat16(uint16_t* /*c*/, const Vec* /*row*/) {}

template <bool kBf16>
inline Vec multiply_add(Vec sum, Operand a, Operand b) {
  if constexpr (kBf16) {
    // A word holds two bf16: the lower half shifted up and the upper half masked are their fp32 values.
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)),
                          sum);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, high)),
                           _mm512_castsi512_ps(_mm512_and_si512(b, high)), sum);
  }
  return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

}  // namespace

#include "kernels/cpu/matmul/panel_kernel_body.inl"

}  // namespace deeptitan::cpu::avx512
