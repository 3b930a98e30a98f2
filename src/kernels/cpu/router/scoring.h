#pragma once

// All that depends on how a router turns logits into scores, one token's row at a time. Another scoring is another case
// in each function of scoring.cpp.

#include "kernels/router_options.h"

namespace deeptitan::cpu {

/// scores [E] = sigmoid or softmax of logits [E].
void score_row(float* scores, const float* logits, const RouterOptions& options);

/// d [E], the gradient of the scores, becomes that of the logits: softmax s * (d - sum(d * s)), sigmoid d * s * (1 -
/// s).
void score_row_backward(float* d, const float* scores, const RouterOptions& options);

/// What a token's scores are divided by to be shares of 1: 1 for softmax, their sum + 1e-20 for sigmoid.
float score_total(const float* scores, const RouterOptions& options);

/// d_scores [E] += the gradient of the scores from d_share [E], that of the shares scores / score_total.
void add_share_backward(float* d_scores, const float* d_share, const float* scores, const RouterOptions& options);

}  // namespace deeptitan::cpu
