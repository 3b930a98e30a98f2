#include <algorithm>
#include <cstdint>

#include "core/error.h"
#include "kernels/cpu/router/router.h"
#include "kernels/cpu/router/router_row.h"

namespace deeptitan::cpu {

namespace {

/// The index of the largest key, the lowest of equals.
DT_VECTOR_CLONES int first_largest(const uint32_t* key, int count) {
  uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (int i = 0; i < count; ++i) largest = key[i] > largest ? key[i] : largest;
  int index = 0;
  while (key[index] != largest) ++index;
  return index;
}

/// A group's rank: its best expert's, or for noaux_tc the sum of its two best (of its one, where it has one).
float group_rank(uint32_t* key, const float* rank, int group_size, RouterKind kind) {
  const int best = first_largest(key, group_size);
  if (kind != RouterKind::kSigmoidNoauxTc || group_size == 1) return rank[best];
  const uint32_t best_key = key[best];
  key[best] = kExcludedKey;
  const int second = first_largest(key, group_size);
  key[best] = best_key;
  return rank_value(exact_add(rank[best], rank[second]));
}

/// Excludes the experts of all but the top_groups best groups.
void exclude_groups(uint32_t* key, const float* rank, const RouterOptions& options) {
  const int group_size = options.experts / options.groups;
  uint32_t group_key[kMaxExpertGroups];
  for (int g = 0; g < options.groups; ++g) {
    group_key[g] = rank_key(group_rank(key + g * group_size, rank + g * group_size, group_size, options.kind));
  }
  for (int i = 0; i < options.top_groups; ++i) group_key[first_largest(group_key, options.groups)] = kExcludedKey;
  for (int g = 0; g < options.groups; ++g) {
    if (group_key[g] != kExcludedKey) std::fill_n(key + g * group_size, group_size, kExcludedKey);
  }
}

void choose_row(int32_t* index, const float* scores, const float* bias, const RouterOptions& options) {
  float rank[kMaxExperts];
  uint32_t key[kMaxExperts];
  const bool biased = bias != nullptr && options.kind == RouterKind::kSigmoidNoauxTc;
#pragma omp simd
  for (int e = 0; e < options.experts; ++e) {
    rank[e] = rank_value(biased ? exact_add(scores[e], bias[e]) : scores[e]);
    key[e] = rank_key(rank[e]);
  }
  const bool grouped = options.kind != RouterKind::kSoftmaxGreedy && options.top_groups < options.groups;
  if (grouped) exclude_groups(key, rank, options);
  for (int k = 0; k < options.top_k; ++k) {
    index[k] = first_largest(key, options.experts);
    key[index[k]] = kExcludedKey;
  }
}

}  // namespace

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
