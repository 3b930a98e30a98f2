#pragma once

// One token's weights, and the order of its sums; the files of this folder share them.

#include <cstdint>

#include "kernels/router_math.h"
#include "kernels/router_options.h"

namespace deeptitan::cpu {

/// The sum of x [count] in the order that router_math.h lays down.
float sum_in_lanes(const float* x, int count, int per_lane);

/// weight [K] of the experts index [K] from scores [E].
void weigh_row(float* weight, const float* scores, const int32_t* index, const RouterOptions& options);

}  // namespace deeptitan::cpu
