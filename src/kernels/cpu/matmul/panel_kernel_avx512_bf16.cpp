#include "kernels/cpu/matmul/panel_kernel.h"

#include <immintrin.h>

namespace deeptitan::cpu::avx512_bf16 {
namespace {

#include "kernels/cpu/matmul/panel_vector_avx512.inl"

// Rounds to nearest, ties to even, as to_bfloat16 does; values too small for a normal bf16 become zero.
constexpr bool kStoresBfloat16 = true;
constexpr bool kMultipliesBfloat16 = true;
constexpr int kPeakSums = 24;
inline void store_bfloat16(uint16_t* c, const Vec* row) {
  _mm512_storeu_si512(c, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(row[1], row[0])));
}

template <bool kBf16>
inline Vec multiply_add(Vec sum, Operand a, Operand b) {
  if constexpr (kBf16) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

}  // namespace

#include "kernels/cpu/matmul/panel_kernel_body.inl"

}  // namespace deeptitan::cpu::avx512_bf16
