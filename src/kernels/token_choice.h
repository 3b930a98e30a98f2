#pragma once

// How a token is chosen where its logits lie: one source for CPU and GPU.

#include "kernels/sampling_math.h"

namespace deeptitan {

/// Of all tokens that may be chosen, one in proportion to e^(logit / temperature): what generate/sampler.h draws. Where
/// top_k or top_p leaves tokens out, the place that is drawn is counted from the likeliest token on (the lower id
/// before its equals), else in the order of ids.
struct TokenChoice {
  double temperature = 0;   // 0: the likeliest token, the lower id of equals
  double least_weight = 0;  // tokens of a smaller weight are left out (min-p), after top_k and top_p
  uint64_t bits = 0;        // 64 uniform bits, of the token's place in its sequence
  double top_p = 1;         // the likeliest until their weights reach this part of all that top_k leaves
  int32_t top_k = 0;        // the k likeliest and those equal to the k-th; 0: all
  float penalty = 1;        // of earlier tokens: their logits are divided by it where positive, else multiplied
};

DT_HOST_DEVICE inline bool draws_by_order(const TokenChoice& choice) {
  return choice.temperature != 0 && (choice.top_k > 0 || choice.top_p < 1);
}

/// A logit of a token that was there before.
DT_HOST_DEVICE inline float penalized_logit(const TokenChoice& choice, float logit) {
#if defined(__CUDA_ARCH__)
  return logit > 0 ? __fdiv_rn(logit, choice.penalty) : __fmul_rn(logit, choice.penalty);
#else
  return logit > 0 ? logit / choice.penalty : logit * choice.penalty;
#endif
}

/// The weight of a score, a logit over the temperature, where the largest is `top`.
DT_HOST_DEVICE inline uint64_t score_weight(double score, double top) {
  return sampling_weight(score == top ? 0.0 : score - top);
}

/// The weight of a token, before min-p; `top` is the largest score, of the largest logit.
DT_HOST_DEVICE inline uint64_t token_weight(const TokenChoice& choice, float logit, double top) {
  return score_weight(static_cast<double>(logit) / choice.temperature, top);
}

/// The same after min-p.
DT_HOST_DEVICE inline uint64_t choice_weight(const TokenChoice& choice, float logit, double top) {
  const uint64_t weight = token_weight(choice, logit, top);
  return static_cast<double>(weight) < choice.least_weight ? 0 : weight;
}

/// Words of 32 bits that say of `vocab` tokens which may be chosen, or which were there before: token t's bit is t % 32
/// of word t / 32.
DT_HOST_DEVICE inline int64_t choice_words(int64_t vocab) {
  return (vocab + 31) / 32;
}

}  // namespace deeptitan
