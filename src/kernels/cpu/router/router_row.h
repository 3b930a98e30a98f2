#pragma once

// One token's part of the router; the files of this folder share it.

#include <cstdint>

#include "kernels/cpu/vector_clones.h"
#include "kernels/router_math.h"
#include "kernels/router_options.h"

namespace deeptitan::cpu {

/// scores [E] = sigmoid or softmax of logits [E].
void score_row(float* scores, const float* logits, const RouterOptions& options);

/// The sum of x [count] in the order that router_math.h lays down.
float sum_in_lanes(const float* x, int count, int per_lane);

/// weight [K] of the experts index [K] from scores [E].
void weigh_row(float* weight, const float* scores, const int32_t* index, const RouterOptions& options);

/// What multiplies the weights: scaling_factor, or 1 for normalised softmax weights.
inline float weight_scale(const RouterOptions& options) {
  const bool normalised = options.normalize_top_k && options.top_k > 1;
  return normalised && options.kind != RouterKind::kSigmoidNoauxTc ? 1.0f : options.scaling_factor;
}

}  // namespace deeptitan::cpu
