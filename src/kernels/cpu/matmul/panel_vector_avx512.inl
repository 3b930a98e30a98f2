// The 16-lane vector vocabulary of panel_kernel_body.inl.

constexpr int kLanes = 16;
constexpr int kRegisterRows = kTileRows;

using Vec = __m512;
using Operand = __m512i;

inline Vec zero() {
  return _mm512_setzero_ps();
}
inline Vec add(Vec a, Vec b) {
  return _mm512_add_ps(a, b);
}
inline Vec load_float(const float* p) {
  return _mm512_loadu_ps(p);
}
inline void store(float* p, Vec v) {
  _mm512_storeu_ps(p, v);
}
inline Operand load(const uint32_t* p) {
  return _mm512_loadu_si512(p);
}
inline Operand broadcast_word(const uint32_t* p) {
  return _mm512_set1_epi32(static_cast<int>(*p));
}
