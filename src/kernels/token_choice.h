#pragma once

// How a token is chosen where its logits lie: one source for CPU and GPU.

#include "kernels/sampling_math.h"

namespace deeptitan {

/// Of all tokens that may be chosen, one in proportion to e^(logit / temperature): what generate/sampler.h draws where
/// nothing depends on the order of the likeliest.
struct TokenChoice {
  double temperature = 0;   // 0: the likeliest token, the lower id of equals
  double least_weight = 0;  // tokens of a smaller weight are left out (min-p)
  uint64_t bits = 0;        // 64 uniform bits, of the token's place in its sequence
};

/// The weight of a token; `top` is the largest score, of the largest logit.
DT_HOST_DEVICE inline uint64_t choice_weight(const TokenChoice& choice, float logit, double top) {
  const double score = static_cast<double>(logit) / choice.temperature;
  const uint64_t weight = sampling_weight(score == top ? 0.0 : score - top);
  return static_cast<double>(weight) < choice.least_weight ? 0 : weight;
}

/// Words of 32 bits that say which of `vocab` tokens may be chosen: token t's bit is t % 32 of word t / 32.
DT_HOST_DEVICE inline int64_t choice_words(int64_t vocab) {
  return (vocab + 31) / 32;
}

}  // namespace deeptitan
