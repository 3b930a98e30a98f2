#pragma once

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cpu {

// Losses are in nats. A target is in [0, vocab), checked by the caller, or kIgnoredTarget. logits are
// [rows, vocab] with ld_logits elements between rows. Deterministic; a row's result does not depend on other rows.

/// The target of a row that bears no loss.
inline constexpr int32_t kIgnoredTarget = -1;

/// loss[r] = log(sum over v of exp(logits[r, v])) - logits[r, targets[r]], and unless d_logits is nullptr
/// d_logits[r, v] = (softmax(logits[r])[v] - [v == targets[r]]) * grad_scale, [rows, vocab] with ld_d_logits
/// elements between rows. Rows whose target is kIgnoredTarget give 0 in both. A float d_logits may be logits.
void softmax_cross_entropy(float* loss, float* d_logits, int64_t ld_d_logits, const float* logits, int64_t ld_logits,
                           const int32_t* targets, float grad_scale, int64_t rows, int64_t vocab);
void softmax_cross_entropy(float* loss, bfloat16* d_logits, int64_t ld_d_logits, const float* logits, int64_t ld_logits,
                           const int32_t* targets, float grad_scale, int64_t rows, int64_t vocab);

/// logprob[r] = logits[r, targets[r]] - log(sum over v of exp(logits[r, v])), 0 where the target is kIgnoredTarget;
/// argmax[r] = the index of the largest logit, the lowest of equals (what greedy decoding takes). argmax may be
/// nullptr.
void token_logprobs(float* logprob, int32_t* argmax, const float* logits, int64_t ld_logits, const int32_t* targets,
                    int64_t rows, int64_t vocab);

/// The sum of x [n], whose order depends on n alone.
double sum_fixed_order(const float* x, int64_t n);

}  // namespace deeptitan::cpu
