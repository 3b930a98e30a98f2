#include "kernels/cpu/router/scoring.h"

#include "kernels/cpu/router/router_row.h"
#include "kernels/cpu/vector_clones.h"

namespace deeptitan::cpu {

namespace {

DT_VECTOR_CLONES void sigmoid_row(float* scores, const float* logits, int experts) {
#pragma omp simd
  for (int e = 0; e < experts; ++e) scores[e] = exact_sigmoid(logits[e]);
}

DT_VECTOR_CLONES void exp_row(float* exps, const float* logits, float maximum, int experts) {
#pragma omp simd
  for (int e = 0; e < experts; ++e) exps[e] = exact_exp_of_nonpositive(logits[e] - maximum);
}

DT_VECTOR_CLONES float max_row(const float* x, int count) {
  float maximum = -__builtin_inff();
#pragma omp simd reduction(max : maximum)
  for (int e = 0; e < count; ++e) maximum = x[e] > maximum ? x[e] : maximum;
  return maximum;
}

DT_VECTOR_CLONES void sigmoid_row_backward(float* d_logits, const float* s, int experts) {
#pragma omp simd
  for (int e = 0; e < experts; ++e) d_logits[e] = d_logits[e] * (s[e] * (1.0f - s[e]));
}

DT_VECTOR_CLONES void softmax_row_backward(float* d_logits, const float* s, float mean, int experts) {
#pragma omp simd
  for (int e = 0; e < experts; ++e) d_logits[e] = s[e] * (d_logits[e] - mean);
}

float sum_experts(const float* x, int experts) {
  return sum_in_lanes(x, experts, experts_per_lane(experts));
}

}  // namespace

void score_row(float* scores, const float* logits, const RouterOptions& options) {
  const int experts = options.experts;
  switch (options.scoring) {
    case RouterScoring::kSigmoid:
      return sigmoid_row(scores, logits, experts);
    case RouterScoring::kSoftmax:
      exp_row(scores, logits, max_row(logits, experts), experts);
      const float inverse = exact_reciprocal(sum_experts(scores, experts));
      for (int e = 0; e < experts; ++e) scores[e] *= inverse;
  }
}

void score_row_backward(float* d, const float* scores, const RouterOptions& options) {
  const int experts = options.experts;
  switch (options.scoring) {
    case RouterScoring::kSigmoid:
      return sigmoid_row_backward(d, scores, experts);
    case RouterScoring::kSoftmax:
      float product[kMaxExperts];
      for (int e = 0; e < experts; ++e) product[e] = d[e] * scores[e];
      softmax_row_backward(d, scores, sum_experts(product, experts), experts);
  }
}

float score_total(const float* scores, const RouterOptions& options) {
  if (options.scoring == RouterScoring::kSoftmax) return 1.0f;  // they sum to 1
  return exact_add(sum_experts(scores, options.experts), kNormalizeEpsilon);
}

void add_share_backward(float* d_scores, const float* d_share, const float* scores, const RouterOptions& options) {
  const int experts = options.experts;
  float mean = 0.0f;
  float inverse = 1.0f;
  if (options.scoring != RouterScoring::kSoftmax) {
    inverse = exact_reciprocal(score_total(scores, options));
    float product[kMaxExperts];
    for (int e = 0; e < experts; ++e) product[e] = exact_mul(d_share[e], scores[e]);
    mean = exact_mul(sum_experts(product, experts), inverse);
  }
  for (int e = 0; e < experts; ++e) d_scores[e] += exact_mul(inverse, exact_add(d_share[e], -mean));
}

}  // namespace deeptitan::cpu
