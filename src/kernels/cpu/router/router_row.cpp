#include "kernels/cpu/router/router_row.h"

#include <algorithm>

namespace deeptitan::cpu {

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

void weigh_row(float* weight, const float* scores, const int32_t* index, const RouterOptions& options) {
  const int top_k = options.top_k;
  for (int k = 0; k < top_k; ++k) weight[k] = scores[index[k]];
  if (options.normalize_top_k && top_k > 1) {
    const float sum = exact_add(sum_in_lanes(weight, top_k, 1), kNormalizeEpsilon);
    for (int k = 0; k < top_k; ++k) weight[k] = exact_div(weight[k], sum);
  }
  const float scale = router_weight_scale(options);
  for (int k = 0; k < top_k; ++k) weight[k] *= scale;
}

}  // namespace deeptitan::cpu
