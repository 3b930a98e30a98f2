#pragma once

#include <cstdint>
#include <limits>

#include "core/bfloat16.h"

// The softmax of attention, over rows of scores that a thread has in its cache. T is float or bfloat16.

namespace deeptitan::cpu {

/// The largest of n > 0 values; a NaN may be passed over.
float row_max(const float* x, int64_t n);

/// out[i] = e^(scale * scores[i] - shift) for i < n, 0 for n <= i < padded; returns the sum of the unrounded
/// exponentials, in an order that n alone decides.
template <typename T>
float exponentials(T* out, const float* scores, int64_t n, int64_t padded, float scale, float shift);

/// A block of rows of a causal softmax: row i sees its first min(first_visible + i, most_visible) scores.
struct CausalRows {
  int64_t rows;
  int64_t first_visible;  // at least 1
  int64_t ld;             // elements from row to row of scores and probabilities; what is not seen becomes 0
  float scale;
  int64_t most_visible = std::numeric_limits<int64_t>::max();
};

/// probabilities[i, :] = softmax(scale * scores[i, :]), and log_sum_exp[i * ld_statistic] (nullptr: not wanted).
/// `scores` is overwritten.
template <typename T>
void causal_softmax(T* probabilities, float* log_sum_exp, int64_t ld_statistic, float* scores, const CausalRows& block);

/// From the scores, their log_sum_exp, d_probabilities and delta[i] = sum_s p[i, s] d_probabilities[i, s]:
/// probabilities again, and d_scores = scale * p * (d_probabilities - delta).
template <typename T>
void causal_softmax_backward(T* probabilities, T* d_scores, const float* scores, const float* d_probabilities,
                             const float* log_sum_exp, int64_t ld_statistic, const float* delta,
                             const CausalRows& block);

/// delta[i] = d_out[i, :] . out[i, :] over `width` elements: what causal_softmax_backward wants (d_out . out equals
/// sum_s p_s dp_s).
template <typename T>
void row_dots(float* delta, const T* d_out, const T* out, int64_t ld, int64_t rows, int64_t width);

}  // namespace deeptitan::cpu
