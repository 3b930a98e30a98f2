#include <cstdint>

#include "kernels/cpu/router/router.h"
#include "kernels/cpu/router/router_row.h"

namespace deeptitan::cpu {

namespace {

/// What a token's scores are divided by: 1 for softmax, their sum for sigmoid.
float score_sum(const float* s, const RouterOptions& options) {
  if (options.kind != RouterKind::kSigmoidNoauxTc) return 1.0f;
  return exact_add(sum_in_lanes(s, options.experts, experts_per_lane(options.experts)), kNormalizeEpsilon);
}

}  // namespace

void sequence_auxiliary_loss(double* loss_sum, float* d_scores, const float* scores, const int32_t* expert_index,
                             const SequenceOffsets& sequences, const RouterOptions& options,
                             const AuxiliaryLossScale& scale) {
  check_router_options(options);
  const int experts = options.experts;
  const int top_k = options.top_k;
#pragma omp parallel for ordered schedule(static, 1)
  for (int64_t sequence = 0; sequence < sequences.count; ++sequence) {
    const int64_t begin = sequences.offsets[sequence];
    const int64_t end = sequences.offsets[sequence + 1];
    double score_total[kMaxExperts] = {};  // T P_i
    int32_t chosen[kMaxExperts] = {};
    for (int64_t t = begin; t < end; ++t) {
      const float* s = scores + t * experts;
      const double inverse = 1.0 / score_sum(s, options);
      for (int e = 0; e < experts; ++e) score_total[e] += s[e] * inverse;
      for (int k = 0; k < top_k; ++k) ++chosen[expert_index[t * top_k + k]];
    }

    const double tokens = static_cast<double>(end - begin);
    double loss = 0;
    float d_share[kMaxExperts];  // the gradient of T * loss with respect to s_ti / S_t, the same for each token
    for (int e = 0; e < experts && end > begin; ++e) {
      const double f = static_cast<double>(experts) * chosen[e] / (top_k * tokens);
      loss += scale.alpha * f * score_total[e];
      d_share[e] = static_cast<float>(static_cast<double>(scale.gradient_scale) * scale.alpha * f);
    }
    for (int64_t t = begin; t < end && d_scores != nullptr; ++t) {
      const float* s = scores + t * experts;
      float* d = d_scores + t * experts;
      float mean = 0.0f;
      float inverse = 1.0f;
      if (options.kind == RouterKind::kSigmoidNoauxTc) {
        inverse = exact_reciprocal(score_sum(s, options));
        float product[kMaxExperts];
        for (int e = 0; e < experts; ++e) product[e] = exact_mul(d_share[e], s[e]);
        mean = exact_mul(sum_in_lanes(product, experts, experts_per_lane(experts)), inverse);
      }
      for (int e = 0; e < experts; ++e) d[e] += exact_mul(inverse, exact_add(d_share[e], -mean));
    }
#pragma omp ordered
    if (loss_sum != nullptr) *loss_sum += loss;
  }
}

}  // namespace deeptitan::cpu
