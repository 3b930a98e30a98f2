#include <cstdint>

#include "kernels/cpu/router/router.h"
#include "kernels/cpu/router/router_row.h"
#include "kernels/cpu/router/scoring.h"

namespace deeptitan::cpu {

namespace {

/// d_score [K] = the gradient of the chosen experts' scores from that of their weights.
void weigh_row_backward(float* d_score, const float* d_weight, const float* scores, const int32_t* index,
                        const RouterOptions& options) {
  const int top_k = options.top_k;
  const float scale = router_weight_scale(options);
  if (!options.normalize_top_k || top_k == 1) {
    for (int k = 0; k < top_k; ++k) d_score[k] = exact_mul(scale, d_weight[k]);
    return;
  }
  // w_k = scale * s_k / S, S = sum(s) + 1e-20: d_s_k = scale / S * (d_w_k - sum_j d_w_j s_j / S).
  float s[kMaxTopK];
  float product[kMaxTopK];
  for (int k = 0; k < top_k; ++k) {
    s[k] = scores[index[k]];
    product[k] = exact_mul(d_weight[k], s[k]);
  }
  const float sum = exact_add(sum_in_lanes(s, top_k, 1), kNormalizeEpsilon);
  const float mean = exact_div(sum_in_lanes(product, top_k, 1), sum);
  const float factor = exact_div(scale, sum);
  for (int k = 0; k < top_k; ++k) d_score[k] = exact_mul(factor, exact_add(d_weight[k], -mean));
}

}  // namespace

void route_tokens_backward(float* d_logits, const float* d_weight, const float* d_scores, const float* scores,
                           const int32_t* expert_index, int64_t tokens, const RouterOptions& options) {
  check_router_options(options);
  const int experts = options.experts;
  const int top_k = options.top_k;
#pragma omp parallel for schedule(static) if (tokens * experts > 4096)
  for (int64_t t = 0; t < tokens; ++t) {
    float* d = d_logits + t * experts;
    const float* s = scores + t * experts;
    const int32_t* index = expert_index + t * top_k;
    float d_chosen[kMaxTopK];
    weigh_row_backward(d_chosen, d_weight + t * top_k, s, index, options);
    for (int e = 0; e < experts; ++e) d[e] = d_scores != nullptr ? d_scores[t * experts + e] : 0.0f;
    for (int k = 0; k < top_k; ++k) d[index[k]] += d_chosen[k];
    score_row_backward(d, s, options);
  }
}

}  // namespace deeptitan::cpu
