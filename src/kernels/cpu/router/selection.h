#pragma once

#include <cstdint>

#include "kernels/router_options.h"

namespace deeptitan::cpu {

/// index [K] = the experts of one token, best first, from scores [E] and bias [E] (null: none). Another selection is
/// another way to rank or exclude groups in selection.cpp.
void choose_row(int32_t* index, const float* scores, const float* bias, const RouterOptions& options);

}  // namespace deeptitan::cpu
