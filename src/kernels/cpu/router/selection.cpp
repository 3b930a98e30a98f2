#include "kernels/cpu/router/selection.h"

#include <algorithm>

#include "kernels/cpu/vector_clones.h"
#include "kernels/router_math.h"

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

/// A group's rank: its best expert's, or for kGroupsByTwoBest the sum of its two best (of its one, where it has one).
float group_rank(uint32_t* key, const float* rank, int group_size, RouterSelection selection) {
  const int best = first_largest(key, group_size);
  if (selection != RouterSelection::kGroupsByTwoBest || group_size == 1) return rank[best];
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
    group_key[g] = rank_key(group_rank(key + g * group_size, rank + g * group_size, group_size, options.selection));
  }
  for (int i = 0; i < options.top_groups; ++i) group_key[first_largest(group_key, options.groups)] = kExcludedKey;
  for (int g = 0; g < options.groups; ++g) {
    if (group_key[g] != kExcludedKey) std::fill_n(key + g * group_size, group_size, kExcludedKey);
  }
}

}  // namespace

void choose_row(int32_t* index, const float* scores, const float* bias, const RouterOptions& options) {
  float rank[kMaxExperts];
  uint32_t key[kMaxExperts];
#pragma omp simd
  for (int e = 0; e < options.experts; ++e) {
    rank[e] = rank_value(bias != nullptr ? exact_add(scores[e], bias[e]) : scores[e]);
    key[e] = rank_key(rank[e]);
  }
  if (router_limits_groups(options)) exclude_groups(key, rank, options);
  for (int k = 0; k < options.top_k; ++k) {
    index[k] = first_largest(key, options.experts);
    key[index[k]] = kExcludedKey;
  }
}

}  // namespace deeptitan::cpu
