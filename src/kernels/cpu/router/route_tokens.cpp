#include <algorithm>
#include <cstdint>

#include "core/error.h"
#include "kernels/cpu/router/router.h"
#include "kernels/cpu/router/router_row.h"
#include "kernels/cpu/router/scoring.h"
#include "kernels/cpu/router/selection.h"

namespace deeptitan::cpu {

void route_tokens(int32_t* expert_index, float* expert_weight, float* scores, int32_t* counts, const float* logits,
                  const float* bias, int64_t tokens, const RouterOptions& options) {
  check_router_options(options);
  const int experts = options.experts;
  const int top_k = options.top_k;
  std::fill_n(counts, experts, 0);
#pragma omp parallel if (tokens * experts > 4096)
  {
    float row_of_thread[kMaxExperts];
    int32_t counts_of_thread[kMaxExperts] = {};
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; ++t) {
      float* row = scores != nullptr ? scores + t * experts : row_of_thread;
      int32_t* index = expert_index + t * top_k;
      score_row(row, logits + t * experts, options);
      choose_row(index, row, bias, options);
      weigh_row(expert_weight + t * top_k, row, index, options);
      for (int k = 0; k < top_k; ++k) ++counts_of_thread[index[k]];
    }
#pragma omp critical(route_tokens_counts)
    for (int e = 0; e < experts; ++e) counts[e] += counts_of_thread[e];
  }
}

void route_tokens_to_given_experts(float* expert_weight, float* scores, int32_t* counts, const float* logits,
                                   const int32_t* expert_index, int64_t tokens, const RouterOptions& options) {
  check_router_options(options);
  const int experts = options.experts;
  const int top_k = options.top_k;
  std::fill_n(counts, experts, 0);
  for (int64_t slot = 0; slot < tokens * top_k; ++slot) {
    const int32_t expert = expert_index[slot];
    DT_CHECK(expert >= 0 && expert < experts, "router: the given choice {} of token {} is expert {}, must be 0 to {}",
             slot % top_k, slot / top_k, expert, experts - 1);
    ++counts[expert];
  }
#pragma omp parallel for schedule(static) if (tokens * experts > 4096)
  for (int64_t t = 0; t < tokens; ++t) {
    float row_of_token[kMaxExperts];
    float* row = scores != nullptr ? scores + t * experts : row_of_token;
    score_row(row, logits + t * experts, options);
    weigh_row(expert_weight + t * top_k, row, expert_index + t * top_k, options);
  }
}

}  // namespace deeptitan::cpu
