#include "kernels/cpu/matmul/panel_kernel.h"

#include <immintrin.h>

namespace deeptitan::cpu::avx2 {
namespace {

constexpr int kLanes = 8;
constexpr bool kStoresBfloat16 = false;
constexpr bool kMultipliesBfloat16 = false;
constexpr int kPeakSums = 12;
constexpr int kRegisterRows = 2;  // 2 x 4 accumulators, with room for the operands in 16 registers

using Vec = __m256;
using Operand = __m256i;

inline Vec zero() {
  return _mm256_setzero_ps();
}
inline Vec add(Vec a, Vec b) {
  return _mm256_add_ps(a, b);
}
inline Vec load_float(const float* p) {
  return _mm256_loadu_ps(p);
}
inline void store(float* p, Vec v) {
  _mm256_storeu_ps(p, v);
}
inline Operand load(const uint32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline Operand broadcast_word(const uint32_t* p) {
  return _mm256_set1_epi32(static_cast<int>(*p));
}

template <bool kBf16>
inline Vec multiply_add(Vec sum, Operand a, Operand b) {
  if constexpr (kBf16) {
    // A word holds two bf16: the lower half shifted up and the upper half masked are their fp32 values.
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    sum = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)),
                          sum);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(a, high)),
                           _mm256_castsi256_ps(_mm256_and_si256(b, high)), sum);
  } else {
    return _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), sum);
  }
}

[[maybe_unused]] inline void store_bfloat16(uint16_t* /*c*/, const Vec* /*row*/) {}

}  // namespace

#include "kernels/cpu/matmul/panel_kernel_body.inl"

}  // namespace deeptitan::cpu::avx2
