#pragma once

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/square_blocks.h"
#include "kernels/stochastic_rounding.h"

namespace deeptitan::cpu {

/// The constants of AdamW, double as in torch.optim.AdamW, where 1 - beta is taken before rounding to float.
struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
};

/// One step of AdamW with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101), in the order of
/// torch.optim.AdamW. With g = gradient * gradient_scale and t = step, counted from 1:
///   parameter *= 1 - learning_rate * weight_decay
///   m += (1 - beta1) * (g - m);   v = beta2 * v + (1 - beta2) * g * g
///   parameter -= learning_rate / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
/// All arrays are [n] and float. gradient_scale is the clipping coefficient times whatever else the gradient is to be
/// multiplied by.
void adamw_update(float* parameter, float* m, float* v, const float* gradient, int64_t n, double learning_rate,
                  double weight_decay, float gradient_scale, int64_t step, const AdamWOptions& options);

/// The same with moments that are kept in bf16. Their new values are worked out in float, the parameter is updated with
/// those, and they are rounded at random as kernels/stochastic_rounding.h says: by the parameter, the element's place
/// in it, and `step`.
void adamw_update(float* parameter, bfloat16* m, bfloat16* v, const float* gradient, int64_t n, double learning_rate,
                  double weight_decay, float gradient_scale, int64_t step, const AdamWOptions& options,
                  const RoundingPlace& place);

/// sums[b] = the sum of x[i]^2 over block b of kSquareBlocks of a tensor of `whole` elements, of which x has the n from
/// `first` on. The blocks' bounds depend on `whole` alone.
void square_sums(double* sums, const float* x, int64_t n, int64_t first, int64_t whole);

/// The sum of x[i]^2 over [n]: the sums of the blocks added in order.
double sum_of_squares(const float* x, int64_t n);

/// Whether no element of x [n] is infinite or NaN.
bool all_finite(const float* x, int64_t n);
bool all_finite(const bfloat16* x, int64_t n);

}  // namespace deeptitan::cpu
