#include "kernels/cpu/router/balance.h"

namespace deeptitan::cpu {

void accumulate_counts(int32_t* load, const int32_t* counts, int64_t experts) {
  for (int64_t e = 0; e < experts; ++e) load[e] += counts[e];
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
