#include "kernels/cpu/matmul/panel_kernel.h"

#include <immintrin.h>

namespace deeptitan::cpu::avx512_bf16 {
namespace {

#include "kernels/cpu/matmul/panel_vector_avx512.inl"

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
