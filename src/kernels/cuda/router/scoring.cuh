#pragma once

// All that depends on how a router turns logits into scores, a token's row in a warp's registers. Another scoring is
// another case in each function here; nothing else asks which it is.

#include "kernels/cuda/router/token_row.cuh"
#include "kernels/router_math.h"
#include "kernels/router_options.h"

namespace deeptitan::cuda {

/// body.template operator()<scoring>(): the scoring as a constant, for a launcher's instances.
template <typename Body>
void with_scoring(RouterScoring scoring, const Body& body) {
  switch (scoring) {
    case RouterScoring::kSoftmax:
      return body.template operator()<RouterScoring::kSoftmax>();
    case RouterScoring::kSigmoid:
      return body.template operator()<RouterScoring::kSigmoid>();
  }
}

/// v becomes the scores of logits v (absent experts: minus infinity, which scores 0).
template <RouterScoring kScoring, int kPerLane>
__device__ void score_experts(float (&v)[kPerLane]) {
  if constexpr (kScoring == RouterScoring::kSigmoid) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) v[i] = exact_sigmoid(v[i]);
  } else {
    static_assert(kScoring == RouterScoring::kSoftmax);
    float maximum = v[0];
#pragma unroll
    for (int i = 1; i < kPerLane; ++i) maximum = fmaxf(maximum, v[i]);
    maximum = warp_max(rank_value(maximum));
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) v[i] = exact_exp_of_nonpositive(exact_add(v[i], -maximum));
    const float inverse = exact_reciprocal(sum_experts(v));
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) v[i] = exact_mul(v[i], inverse);
  }
}

/// d, the gradient of the scores s, becomes that of the logits.
template <RouterScoring kScoring, int kPerLane>
__device__ void score_experts_backward(float (&d)[kPerLane], const float (&s)[kPerLane]) {
  if constexpr (kScoring == RouterScoring::kSigmoid) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) d[i] = exact_mul(d[i], exact_mul(s[i], exact_add(1.0f, -s[i])));
  } else {
    static_assert(kScoring == RouterScoring::kSoftmax);
    float product[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) product[i] = exact_mul(d[i], s[i]);
    const float mean = sum_experts(product);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) d[i] = exact_mul(s[i], exact_add(d[i], -mean));
  }
}

/// Whether a token's scores sum to 1, so that they are shares as they are; else they are divided by score_total.
inline bool sums_to_one(RouterScoring scoring) {
  return scoring == RouterScoring::kSoftmax;
}

/// The sum of a token's scores + 1e-20.
template <int kPerLane>
__device__ float score_total(const float (&s)[kPerLane]) {
  return exact_add(sum_experts(s), kNormalizeEpsilon);
}

}  // namespace deeptitan::cuda
