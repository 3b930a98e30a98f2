#include <algorithm>
#include <cstdint>

#include "kernels/cpu/router/router.h"
#include "kernels/cpu/router/scoring.h"

namespace deeptitan::cpu {

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
    double total_of_expert[kMaxExperts] = {};  // T P_i
    int32_t chosen[kMaxExperts] = {};
    for (int64_t block = begin; block < end; block += kBalanceBlock) {
      double of_block[kMaxExperts] = {};
      for (int64_t t = block; t < std::min(end, block + kBalanceBlock); ++t) {
        const float* s = scores + t * experts;
        const double inverse = 1.0 / score_total(s, options);
        for (int e = 0; e < experts; ++e) of_block[e] += s[e] * inverse;
        for (int k = 0; k < top_k; ++k) ++chosen[expert_index[t * top_k + k]];
      }
      for (int e = 0; e < experts; ++e) total_of_expert[e] += of_block[e];
    }

    const double tokens = static_cast<double>(end - begin);
    double loss = 0;
    float d_share[kMaxExperts];  // the gradient of T * loss with respect to s_ti / S_t, the same for each token
    for (int e = 0; e < experts && end > begin; ++e) {
      const double f = static_cast<double>(experts) * chosen[e] / (top_k * tokens);
      loss += scale.alpha * f * total_of_expert[e];
      d_share[e] = static_cast<float>(static_cast<double>(scale.gradient_scale) * scale.alpha * f);
    }
    for (int64_t t = begin; t < end && d_scores != nullptr; ++t) {
      add_share_backward(d_scores + t * experts, d_share, scores + t * experts, options);
    }
#pragma omp ordered
    if (loss_sum != nullptr) *loss_sum += loss;
  }
}

}  // namespace deeptitan::cpu
