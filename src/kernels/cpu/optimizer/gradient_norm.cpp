#include "kernels/cpu/optimizer/gradient_norm.h"

#include <numeric>

#include "kernels/cpu/optimizer/adamw.h"

namespace deeptitan::cpu {

double add_square_sums(const double* sums, int64_t parameters) {
  double total = 0;
  for (int64_t p = 0; p < parameters; ++p) {
    const double* of_parameter = sums + p * kSquareBlocks;
    total += std::accumulate(of_parameter, of_parameter + kSquareBlocks, 0.0);
  }
  return total;
}

}  // namespace deeptitan::cpu
