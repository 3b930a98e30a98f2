#include "kernels/cpu/attention/softmax_rows.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention/softmax_rows.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace deeptitan::cpu {
namespace HWY_NAMESPACE {

float row_max(const float* x, int64_t n) {
  return max_of(x, n);
}

/// e^(scale * x - shift), 0 past the end.
template <typename Lanes>
HWY_INLINE FloatVec shifted_exp(const float* x, FloatVec scale, FloatVec shift, Lanes lanes) {
  return or_else(exp(hn::MulSub(load(x, lanes), scale, shift)), hn::Zero(FloatTag()), lanes);
}

template <typename T>
float exponentials(T* out, const float* scores, int64_t n, int64_t padded, float scale, float shift) {
  const FloatVec scales = hn::Set(FloatTag(), scale);
  const FloatVec shifts = hn::Set(FloatTag(), shift);
  const float sum = sum_vectors(n, [=](FloatVec total, int64_t i, auto lanes) HWY_ATTR {
    const FloatVec value = shifted_exp(scores + i, scales, shifts, lanes);
    store(value, out + i, lanes);
    return hn::Add(total, value);
  });
  std::fill(out + n, out + padded, T{});
  return sum;
}

template <typename T>
void causal_softmax(T* probabilities, float* log_sum_exp, int64_t ld_statistic, float* scores,
                    const CausalRows& block) {
  for (int64_t i = 0; i < block.rows; ++i) {
    float* score = scores + i * block.ld;
    T* probability = probabilities + i * block.ld;
    const int64_t visible = std::min(block.first_visible + i, block.most_visible);
    const float shift = max_of(score, visible) * block.scale;
    const float sum = exponentials(score, score, visible, visible, block.scale, shift);
    const FloatVec inverse = hn::Set(FloatTag(), 1.0f / sum);
    for_vectors(0, visible, [=](int64_t j, auto lanes) HWY_ATTR {
      store(hn::Mul(load(score + j, lanes), inverse), probability + j, lanes);
    });
    std::fill(probability + visible, probability + block.ld, T{});
    if (log_sum_exp != nullptr) log_sum_exp[i * ld_statistic] = shift + std::log(sum);
  }
}

template <typename T>
void causal_softmax_backward(T* probabilities, T* d_scores, const float* scores, const float* d_probabilities,
                             const float* log_sum_exp, int64_t ld_statistic, const float* delta,
                             const CausalRows& block) {
  const FloatVec scale = hn::Set(FloatTag(), block.scale);
  for (int64_t i = 0; i < block.rows; ++i) {
    const float* score = scores + i * block.ld;
    const float* d_probability = d_probabilities + i * block.ld;
    T* probability = probabilities + i * block.ld;
    T* d_score = d_scores + i * block.ld;
    const int64_t visible = block.first_visible + i;
    const FloatVec shift = hn::Set(FloatTag(), log_sum_exp[i * ld_statistic]);
    const FloatVec row_delta = hn::Set(FloatTag(), delta[i]);
    for_vectors(0, visible, [=](int64_t j, auto lanes) HWY_ATTR {
      const FloatVec p = shifted_exp(score + j, scale, shift, lanes);
      store(p, probability + j, lanes);
      const FloatVec d = hn::Sub(load(d_probability + j, lanes), row_delta);
      store(hn::Mul(hn::Mul(p, d), scale), d_score + j, lanes);
    });
    std::fill(probability + visible, probability + block.ld, T{});
    std::fill(d_score + visible, d_score + block.ld, T{});
  }
}

template <typename T>
void row_dots(float* delta, const T* d_out, const T* out, int64_t ld, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows; ++i) {
    delta[i] = sum_vectors(width, [a = d_out + i * ld, b = out + i * ld](FloatVec sum, int64_t j, auto lanes)
                                      HWY_ATTR { return hn::MulAdd(load(a + j, lanes), load(b + j, lanes), sum); });
  }
}

// Dispatch tables are made by name: one for each element type.
constexpr auto& exponentials_f32 = exponentials<float>;
constexpr auto& exponentials_bf16 = exponentials<bfloat16>;
constexpr auto& causal_softmax_f32 = causal_softmax<float>;
constexpr auto& causal_softmax_bf16 = causal_softmax<bfloat16>;
constexpr auto& causal_softmax_backward_f32 = causal_softmax_backward<float>;
constexpr auto& causal_softmax_backward_bf16 = causal_softmax_backward<bfloat16>;
constexpr auto& row_dots_f32 = row_dots<float>;
constexpr auto& row_dots_bf16 = row_dots<bfloat16>;

}  // namespace HWY_NAMESPACE
}  // namespace deeptitan::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <type_traits>

namespace deeptitan::cpu {
namespace {

HWY_EXPORT(row_max);
HWY_EXPORT(exponentials_f32);
HWY_EXPORT(exponentials_bf16);
HWY_EXPORT(causal_softmax_f32);
HWY_EXPORT(causal_softmax_bf16);
HWY_EXPORT(causal_softmax_backward_f32);
HWY_EXPORT(causal_softmax_backward_bf16);
HWY_EXPORT(row_dots_f32);
HWY_EXPORT(row_dots_bf16);

}  // namespace

float row_max(const float* x, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(row_max)(x, n);
}

#define DT_BY_TYPE(name, ...)                              \
  if constexpr (std::is_same_v<T, float>) {                \
    return HWY_DYNAMIC_DISPATCH(name##_f32)(__VA_ARGS__);  \
  } else {                                                 \
    return HWY_DYNAMIC_DISPATCH(name##_bf16)(__VA_ARGS__); \
  }

template <typename T>
float exponentials(T* out, const float* scores, int64_t n, int64_t padded, float scale, float shift) {
  DT_BY_TYPE(exponentials, out, scores, n, padded, scale, shift);
}

template <typename T>
void causal_softmax(T* probabilities, float* log_sum_exp, int64_t ld_statistic, float* scores,
                    const CausalRows& block) {
  DT_BY_TYPE(causal_softmax, probabilities, log_sum_exp, ld_statistic, scores, block);
}

template <typename T>
void causal_softmax_backward(T* probabilities, T* d_scores, const float* scores, const float* d_probabilities,
                             const float* log_sum_exp, int64_t ld_statistic, const float* delta,
                             const CausalRows& block) {
  DT_BY_TYPE(causal_softmax_backward, probabilities, d_scores, scores, d_probabilities, log_sum_exp, ld_statistic,
             delta, block);
}

template <typename T>
void row_dots(float* delta, const T* d_out, const T* out, int64_t ld, int64_t rows, int64_t width) {
  DT_BY_TYPE(row_dots, delta, d_out, out, ld, rows, width);
}

#undef DT_BY_TYPE

#define DT_INSTANTIATE(T)                                                                                        \
  template float exponentials(T*, const float*, int64_t, int64_t, float, float);                                 \
  template void causal_softmax(T*, float*, int64_t, float*, const CausalRows&);                                  \
  template void causal_softmax_backward(T*, T*, const float*, const float*, const float*, int64_t, const float*, \
                                        const CausalRows&);                                                      \
  template void row_dots(float*, const T*, const T*, int64_t, int64_t, int64_t);
DT_INSTANTIATE(float)
DT_INSTANTIATE(bfloat16)
#undef DT_INSTANTIATE

}  // namespace deeptitan::cpu
#endif  // HWY_ONCE
