#include "kernels/cpu/optimizer/adamw.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/optimizer/adamw.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace deeptitan::cpu {
namespace HWY_NAMESPACE {

void adamw_range(float* parameter, float* m, float* v, const float* gradient, int64_t n, double learning_rate,
                 double weight_decay, float gradient_scale, int64_t step, const AdamWOptions& options) {
  // Every factor is computed in double and rounded once.
  const auto set = [](double value) HWY_ATTR { return hn::Set(FloatTag(), static_cast<float>(value)); };
  const double correction1 = 1.0 - std::pow(options.beta1, static_cast<double>(step));
  const double correction2 = 1.0 - std::pow(options.beta2, static_cast<double>(step));
  const FloatVec scale = set(gradient_scale);
  const FloatVec decay = set(1.0 - learning_rate * weight_decay);
  const FloatVec one_minus_beta1 = set(1.0 - options.beta1);
  const FloatVec beta2 = set(options.beta2);
  const FloatVec one_minus_beta2 = set(1.0 - options.beta2);
  const FloatVec correction2_root = set(std::sqrt(correction2));
  const FloatVec epsilon = set(options.epsilon);
  const FloatVec minus_step_size = set(-(learning_rate / correction1));
  for_vectors(0, n, [=](int64_t i, auto lanes) HWY_ATTR {
    const FloatVec g = hn::Mul(load(gradient + i, lanes), scale);
    const FloatVec m_old = load(m + i, lanes);
    const FloatVec m_new = hn::MulAdd(one_minus_beta1, hn::Sub(g, m_old), m_old);
    const FloatVec v_new = hn::Add(hn::Mul(load(v + i, lanes), beta2), hn::Mul(hn::Mul(one_minus_beta2, g), g));
    const FloatVec denominator = hn::Add(hn::Div(hn::Sqrt(v_new), correction2_root), epsilon);
    const FloatVec decayed = hn::Mul(load(parameter + i, lanes), decay);
    store(m_new, m + i, lanes);
    store(v_new, v + i, lanes);
    store(hn::Add(decayed, hn::Div(hn::Mul(minus_step_size, m_new), denominator)), parameter + i, lanes);
  });
}

/// The sum of x[i]^2: float within blocks short enough to keep its precision, double between them.
double sum_of_squares_range(const float* x, int64_t n) {
  constexpr int64_t kBlock = 2048;
  double sum = 0.0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const float* block = x + begin;
    sum += sum_vectors(HWY_MIN(kBlock, n - begin), [=](FloatVec total, int64_t i, auto lanes) HWY_ATTR {
      const FloatVec value = load(block + i, lanes);
      return hn::MulAdd(value, value, total);
    });
  }
  return sum;
}

template <typename T>
bool all_finite_range(const T* x, int64_t n) {
  // Infinity and NaN alone give NaN when multiplied by zero, and a NaN stays in the sum.
  const FloatVec zero = hn::Zero(FloatTag());
  const float sum = sum_vectors(
      n, [=](FloatVec total, int64_t i, auto lanes) HWY_ATTR { return hn::MulAdd(load(x + i, lanes), zero, total); });
  return !std::isnan(sum);
}

// Dispatch tables are made by name: one for each element type.
constexpr auto& all_finite_f32 = all_finite_range<float>;
constexpr auto& all_finite_bf16 = all_finite_range<bfloat16>;

}  // namespace HWY_NAMESPACE
}  // namespace deeptitan::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/cpu/parallel.h"

namespace deeptitan::cpu {
namespace {

HWY_EXPORT(adamw_range);
HWY_EXPORT(sum_of_squares_range);
HWY_EXPORT(all_finite_f32);
HWY_EXPORT(all_finite_bf16);

// Threads meet at multiples of this many elements, so that no cache line is written by two.
constexpr int64_t kGrain = 1024;

template <typename T, typename Kernel>
bool all_finite_parallel(Kernel kernel, const T* x, int64_t n) {
  std::atomic<bool> finite = true;
  parallel_ranges(n, n, kGrain, [&](int64_t begin, int64_t end) {
    if (!kernel(x + begin, end - begin)) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

}  // namespace

void adamw_update(float* parameter, float* m, float* v, const float* gradient, int64_t n, double learning_rate,
                  double weight_decay, float gradient_scale, int64_t step, const AdamWOptions& options) {
  const auto kernel = HWY_DYNAMIC_DISPATCH(adamw_range);
  parallel_ranges(n, 8 * n, kGrain, [=](int64_t begin, int64_t end) {
    kernel(parameter + begin, m + begin, v + begin, gradient + begin, end - begin, learning_rate, weight_decay,
           gradient_scale, step, options);
  });
}

void square_sums(double* sums, const float* x, int64_t n, int64_t first, int64_t whole) {
  const int64_t chunk = square_block_elements(whole);
  const auto kernel = HWY_DYNAMIC_DISPATCH(sum_of_squares_range);
  parallel_ranges(kSquareBlocks, n, 1, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t from = std::clamp(i * chunk - first, int64_t{0}, n);
      const int64_t to = std::clamp((i + 1) * chunk - first, int64_t{0}, n);
      sums[i] = kernel(x + from, to - from);
    }
  });
}

double sum_of_squares(const float* x, int64_t n) {
  std::array<double, kSquareBlocks> sums = {};
  square_sums(sums.data(), x, n, 0, n);
  double sum = 0.0;
  for (const double term : sums) sum += term;
  return sum;
}

bool all_finite(const float* x, int64_t n) {
  return all_finite_parallel(HWY_DYNAMIC_DISPATCH(all_finite_f32), x, n);
}

bool all_finite(const bfloat16* x, int64_t n) {
  return all_finite_parallel(HWY_DYNAMIC_DISPATCH(all_finite_bf16), x, n);
}

}  // namespace deeptitan::cpu
#endif  // HWY_ONCE
