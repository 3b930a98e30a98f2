#include "kernels/cpu/loss/cross_entropy.h"

#include <cmath>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/loss/cross_entropy.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace deeptitan::cpu {
namespace HWY_NAMESPACE {

/// exp(x - max) for one vector, 0 past the end.
template <typename Lanes>
HWY_INLINE FloatVec exp_below_max(const float* x, float max, Lanes lanes) {
  return or_else(exp(hn::Sub(load(x, lanes), hn::Set(FloatTag(), max))), hn::Zero(FloatTag()), lanes);
}

/// The sum over x [n] of exp(x - max).
HWY_INLINE float sum_exp(const float* x, int64_t n, float max) {
  return sum_vectors(n, [=](FloatVec total, int64_t i, auto lanes)
                            HWY_ATTR { return hn::Add(total, exp_below_max(x + i, max, lanes)); });
}

/// As sum_exp, the same bits; exp(x - max) of the first `kept` elements is stored on the way.
HWY_INLINE float sum_exp_keeping(float* exps, int64_t kept, const float* x, int64_t n, float max) {
  return sum_vectors(n, [=](FloatVec total, int64_t i, auto lanes) HWY_ATTR {
    const FloatVec value = exp_below_max(x + i, max, lanes);
    if (i < kept) store(value, exps + i, lanes);
    return hn::Add(total, value);
  });
}

/// The index of the first element of x [n] that equals `value`, 0 where none does (NaN).
HWY_INLINE int32_t index_of(const float* x, int64_t n, float value) {
  const FloatTag tag;
  const FloatVec wanted = hn::Set(tag, value);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const intptr_t lane = hn::FindFirstTrue(tag, hn::Eq(load(x + i, AllLanes()), wanted));
    if (lane >= 0) return static_cast<int32_t>(i + lane);
  }
  for (; i < n; ++i) {
    if (x[i] == value) return static_cast<int32_t>(i);
  }
  return 0;
}

HWY_INLINE void store_element(float value, float* p) {
  *p = value;
}
HWY_INLINE void store_element(float value, bfloat16* p) {
  *p = to_bfloat16(value);
}

template <typename T>
void softmax_cross_entropy_rows(float* loss, T* d_logits, int64_t ld_d_logits, const float* logits, int64_t ld_logits,
                                const int32_t* targets, float grad_scale, int64_t rows, int64_t vocab) {
  // An exponential is dearer than its store and load in a near cache: those of a usual vocabulary are taken once.
  constexpr int64_t kKept = 8192;
  HWY_ALIGN float exps[kKept];
  const float* exps_row = exps;
  for (int64_t r = 0; r < rows; ++r) {
    T* d_row = d_logits == nullptr ? nullptr : d_logits + r * ld_d_logits;
    if (targets[r] == kIgnoredTarget) {
      loss[r] = 0.0f;
      if (d_row != nullptr) std::memset(d_row, 0, static_cast<size_t>(vocab) * sizeof(T));
      continue;
    }
    const float* row = logits + r * ld_logits;
    const float max = max_of(row, vocab);
    const float sum = d_row == nullptr ? sum_exp(row, vocab, max) : sum_exp_keeping(exps, kKept, row, vocab, max);
    const float target_logit = row[targets[r]];
    loss[r] = static_cast<float>(std::log(static_cast<double>(sum))) + (max - target_logit);
    if (d_row == nullptr) continue;
    const FloatVec factor = hn::Set(FloatTag(), grad_scale / sum);
    for_vectors(0, HWY_MIN(kKept, vocab), [=](int64_t i, auto lanes) HWY_ATTR {
      store(hn::Mul(load(exps_row + i, lanes), factor), d_row + i, lanes);
    });
    for_vectors(kKept, vocab, [=](int64_t i, auto lanes) HWY_ATTR {
      store(hn::Mul(exp_below_max(row + i, max, lanes), factor), d_row + i, lanes);
    });
    // Taken from the float probability, not from its rounding: a probability near 1 leaves little.
    const float probability = hn::GetLane(exp(hn::Set(FloatTag(), target_logit - max))) / sum;
    store_element((probability - 1.0f) * grad_scale, d_row + targets[r]);
  }
}

void token_logprobs_rows(float* logprob, int32_t* argmax, const float* logits, int64_t ld_logits,
                         const int32_t* targets, int64_t rows, int64_t vocab) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = logits + r * ld_logits;
    const float max = max_of(row, vocab);
    if (argmax != nullptr) argmax[r] = index_of(row, vocab, max);
    logprob[r] = 0.0f;
    if (targets[r] == kIgnoredTarget) continue;
    logprob[r] = (row[targets[r]] - max) - static_cast<float>(std::log(static_cast<double>(sum_exp(row, vocab, max))));
  }
}

// Dispatch tables are made by name: one for each element type.
constexpr auto& softmax_cross_entropy_f32 = softmax_cross_entropy_rows<float>;
constexpr auto& softmax_cross_entropy_bf16 = softmax_cross_entropy_rows<bfloat16>;

}  // namespace HWY_NAMESPACE
}  // namespace deeptitan::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/cpu/parallel.h"

namespace deeptitan::cpu {
namespace {

HWY_EXPORT(softmax_cross_entropy_f32);
HWY_EXPORT(softmax_cross_entropy_bf16);
HWY_EXPORT(token_logprobs_rows);

// The exponentials of the sum and of the gradient.
constexpr int64_t kWorkPerElement = 8;

template <typename T, typename Kernel>
void softmax_cross_entropy_parallel(Kernel kernel, float* loss, T* d_logits, int64_t ld_d_logits, const float* logits,
                                    int64_t ld_logits, const int32_t* targets, float grad_scale, int64_t rows,
                                    int64_t vocab) {
  parallel_ranges(rows, kWorkPerElement * rows * vocab, 1, [=](int64_t begin, int64_t end) {
    kernel(loss + begin, d_logits == nullptr ? nullptr : d_logits + begin * ld_d_logits, ld_d_logits,
           logits + begin * ld_logits, ld_logits, targets + begin, grad_scale, end - begin, vocab);
  });
}

}  // namespace

void softmax_cross_entropy(float* loss, float* d_logits, int64_t ld_d_logits, const float* logits, int64_t ld_logits,
                           const int32_t* targets, float grad_scale, int64_t rows, int64_t vocab) {
  softmax_cross_entropy_parallel(HWY_DYNAMIC_DISPATCH(softmax_cross_entropy_f32), loss, d_logits, ld_d_logits, logits,
                                 ld_logits, targets, grad_scale, rows, vocab);
}

void softmax_cross_entropy(float* loss, bfloat16* d_logits, int64_t ld_d_logits, const float* logits, int64_t ld_logits,
                           const int32_t* targets, float grad_scale, int64_t rows, int64_t vocab) {
  softmax_cross_entropy_parallel(HWY_DYNAMIC_DISPATCH(softmax_cross_entropy_bf16), loss, d_logits, ld_d_logits, logits,
                                 ld_logits, targets, grad_scale, rows, vocab);
}

void token_logprobs(float* logprob, int32_t* argmax, const float* logits, int64_t ld_logits, const int32_t* targets,
                    int64_t rows, int64_t vocab) {
  const auto kernel = HWY_DYNAMIC_DISPATCH(token_logprobs_rows);
  parallel_ranges(rows, kWorkPerElement * rows * vocab, 1, [=](int64_t begin, int64_t end) {
    kernel(logprob + begin, argmax == nullptr ? nullptr : argmax + begin, logits + begin * ld_logits, ld_logits,
           targets + begin, end - begin, vocab);
  });
}

double sum_fixed_order(const float* x, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

}  // namespace deeptitan::cpu
#endif  // HWY_ONCE
