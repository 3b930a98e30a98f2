#pragma once

#include <cstdint>

namespace deeptitan::cpu {

/// The squares of `parameters` parameters from their blocks' sums [parameters, kSquareBlocks]: block by block within a
/// parameter, then parameter by parameter.
double add_square_sums(const double* sums, int64_t parameters);

}  // namespace deeptitan::cpu
