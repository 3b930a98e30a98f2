#include "kernels/cpu/router/balance.h"

#include <algorithm>
#include <numeric>

namespace deeptitan::cpu {

void accumulate_counts(int32_t* load, const int32_t* counts, int64_t experts) {
  for (int64_t e = 0; e < experts; ++e) load[e] += counts[e];
}

void count_choices(int32_t* counts, int64_t experts, const int32_t* expert_index, int64_t slots) {
  std::fill_n(counts, experts, 0);
  for (int64_t slot = 0; slot < slots; ++slot) ++counts[expert_index[slot]];
}

LoadRange load_range(const int32_t* load, const float* bias, int64_t experts) {
  LoadRange range;
  if (experts == 0) return range;
  range.largest = *std::max_element(load, load + experts);
  range.whole = std::accumulate(load, load + experts, int64_t{0});
  range.idle = std::count(load, load + experts, 0);
  if (bias != nullptr) {
    const auto [low, high] = std::minmax_element(bias, bias + experts);
    range.lowest_bias = *low;
    range.highest_bias = *high;
  }
  return range;
}

void update_router_bias(float* bias, const int32_t* load, int64_t experts, float speed) {
  int64_t total = 0;
  for (int64_t e = 0; e < experts; ++e) total += load[e];
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t scaled = load[e] * experts;  // compared with the total: no division
    if (scaled < total) bias[e] += speed;
    if (scaled > total) bias[e] -= speed;
  }
}

}  // namespace deeptitan::cpu
