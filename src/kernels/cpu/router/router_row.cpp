#include "kernels/cpu/router/router_row.h"

#include <algorithm>

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

}  // namespace

float sum_in_lanes(const float* x, int count, int per_lane) {
  float lane[kRouterLanes] = {};
  for (int l = 0; l * per_lane < count; ++l) {
    const int end = std::min(count, (l + 1) * per_lane);
    for (int i = l * per_lane; i < end; ++i) lane[l] += x[i];
  }
  for (int width = kRouterLanes / 2; width >= 1; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  }
  return lane[0];
}

void score_row(float* scores, const float* logits, const RouterOptions& options) {
  const int experts = options.experts;
  if (options.kind == RouterKind::kSigmoidNoauxTc) {
    sigmoid_row(scores, logits, experts);
    return;
  }
  exp_row(scores, logits, max_row(logits, experts), experts);
  const float inverse = exact_reciprocal(sum_in_lanes(scores, experts, experts_per_lane(experts)));
  for (int e = 0; e < experts; ++e) scores[e] *= inverse;
}

void weigh_row(float* weight, const float* scores, const int32_t* index, const RouterOptions& options) {
  const int top_k = options.top_k;
  for (int k = 0; k < top_k; ++k) weight[k] = scores[index[k]];
  if (options.normalize_top_k && top_k > 1) {
    const float sum = exact_add(sum_in_lanes(weight, top_k, 1), kNormalizeEpsilon);
    for (int k = 0; k < top_k; ++k) weight[k] = exact_div(weight[k], sum);
  }
  const float scale = weight_scale(options);
  for (int k = 0; k < top_k; ++k) weight[k] *= scale;
}

}  // namespace deeptitan::cpu
