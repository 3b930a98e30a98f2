#pragma once

// The router of a Mixture-of-Experts layer. T tokens, E experts, K experts a token.
//
// Scores s are sigmoid(logits) or softmax(logits). What is ranked is s, or s + bias where there is a bias (DeepSeek-V3,
// arXiv 2412.19437, equation 16); the bias only chooses, weights come from s.
//  - kTopK: the K best experts.
//  - kGroupsByBest (DeepSeek-V2, arXiv 2405.04434, section 2.2.2): a group's score is its best expert's; the K best
//    experts of the top_groups best groups.
//  - kGroupsByTwoBest (DeepSeek-V3): as before, but a group's score is the sum of its two best ranks.
// Experts of the other groups are out (ranked minus infinity, as in DeepSeek-V3's own inference code), whatever the
// sign of the ranks. Ties go to the lower index, and NaN ranks below everything, so that any logits give K distinct
// experts.
// Weights, as in DeepSeek's published modeling code: with normalize_top_k and K > 1, s / (sum over the K of s + 1e-20),
// else s. Sigmoid weights are then always multiplied by scaling_factor; softmax weights only where they were not
// normalised (transformers departs there: it never normalises DeepSeek-V2's. No released V2 checkpoint normalises).
//
// Every choice, score and weight has the same bits on the CPU and on the GPU, and for every number of threads.

#include <cstdint>

#include "kernels/router_options.h"

namespace deeptitan::cpu {

/// Chooses K experts for each token: expert_index [T, K] in descending order of rank, expert_weight [T, K], scores
/// [T, E] (kept for the backward; may be null), counts [E] (tokens of each expert; overwritten), from logits [T, E] and
/// bias [E] (null means none). Throws as check_router_options.
void route_tokens(int32_t* expert_index, float* expert_weight, float* scores, int32_t* counts, const float* logits,
                  const float* bias, int64_t tokens, const RouterOptions& options);

/// As route_tokens, with the choices given: expert_weight [T, K], scores [T, E] (may be null) and counts [E] from
/// logits [T, E] and expert_index [T, K] (a recorded forward). Throws Error where an index is not in 0..E-1.
void route_tokens_to_given_experts(float* expert_weight, float* scores, int32_t* counts, const float* logits,
                                   const int32_t* expert_index, int64_t tokens, const RouterOptions& options);

/// The gradient of route_tokens with the choices held fixed: d_logits [T, E] (overwritten) from d_weight [T, K],
/// d_scores [T, E] (a gradient with respect to the scores from elsewhere, as of sequence_auxiliary_loss; may be null),
/// scores [T, E] and expert_index [T, K] as route_tokens left them. With q the gradient of the scores:
/// softmax d_logits = s * (q - sum(q * s)), sigmoid d_logits = q * s * (1 - s).
void route_tokens_backward(float* d_logits, const float* d_weight, const float* d_scores, const float* scores,
                           const int32_t* expert_index, int64_t tokens, const RouterOptions& options);

/// Tokens of a sequence whose scores sequence_auxiliary_loss adds up by themselves, in their order; blocks of them then
/// in theirs. A GPU adds blocks up side by side.
inline constexpr int64_t kBalanceBlock = 64;

/// The sequence-wise balance loss (DeepSeek-V3, equations 17 to 20; DeepSeek-V2's expert-level loss with its published
/// seq_aux, arXiv 2405.04434, equation 23). For a sequence of T tokens, with S = 1 for softmax and the sum of a token's
/// scores + 1e-20 for sigmoid:
///   f_i = E / (K T) * (times expert i was chosen),  P_i = 1 / T * sum_t s_ti / S_t,  loss = alpha * sum_i f_i P_i.
/// Each sequence weighs as its number of tokens, so that a division by all tokens of the step gives the mean over
/// tokens, however they are cut into sequences, microbatches and ranks:
///   loss_sum += sum over sequences of T * loss;  d_scores [T, E] += gradient_scale * d(T * loss) / d(scores).
/// sequences are rising token offsets into scores [T, E] and expert_index [T, K]; empty
/// sequences are allowed. f is held fixed (it has no gradient). d_scores may be null (loss alone), and so may loss_sum.
/// Deterministic.
void sequence_auxiliary_loss(double* loss_sum, float* d_scores, const float* scores, const int32_t* expert_index,
                             const SequenceOffsets& sequences, const RouterOptions& options,
                             const AuxiliaryLossScale& scale);

}  // namespace deeptitan::cpu
