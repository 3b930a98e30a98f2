#pragma once

#include <cstdint>

namespace deeptitan {

// A router is a scoring, a selection and perhaps a bias, each independent of the others. DeepSeek's `topk_method` names
// three combinations: greedy (V2-Lite) is softmax and kTopK, group_limited_greedy (V2) softmax and kGroupsByBest,
// noaux_tc (V3) sigmoid, kGroupsByTwoBest and a bias.

/// From logits to scores. Read in kernels/cpu/router/scoring.cpp and kernels/cuda/router/scoring.cuh.
enum class RouterScoring { kSoftmax, kSigmoid };

/// Which experts can be chosen. Read in kernels/cpu/router/selection.cpp and kernels/cuda/router/token_choice.cuh.
enum class RouterSelection {
  kTopK,             // the K best of all
  kGroupsByBest,     // the K best of the top_groups best groups, a group's rank being its best expert's
  kGroupsByTwoBest,  // the same, a group's rank being the sum of its two best
};

struct RouterOptions {
  RouterScoring scoring = RouterScoring::kSoftmax;
  RouterSelection selection = RouterSelection::kTopK;
  int experts = 0;               // E, 1 to kMaxExperts
  int top_k = 0;                 // K, 1 to kMaxTopK
  int groups = 1;                // expert groups of equal size (not read by kTopK)
  int top_groups = 1;            // groups that a token may use (not read by kTopK)
  bool normalize_top_k = false;  // divide a token's weights by their sum (where K > 1)
  float scaling_factor = 1.0f;   // routed_scaling_factor
  bool bias = false;             // experts are ranked by score + bias; weights come from the score alone
};

/// Where sequences lie among tokens: sequence s is the tokens offsets[s] to offsets[s + 1] - 1.
struct SequenceOffsets {
  const int32_t* offsets = nullptr;  // [count + 1], rising
  int64_t count = 0;
};

struct AuxiliaryLossScale {
  float alpha = 0.0f;           // the loss's weight
  float gradient_scale = 1.0f;  // what the gradient is multiplied by besides, as 1 / (tokens of the step)
};

inline constexpr int kMaxExperts = 384;
inline constexpr int kMaxTopK = 32;
inline constexpr int kMaxExpertGroups = 32;

/// What multiplies the weights: scaling_factor, or 1 for normalised softmax weights.
float router_weight_scale(const RouterOptions& options);

/// Whether the choice is limited to some of the groups.
inline bool router_limits_groups(const RouterOptions& options) {
  return options.selection != RouterSelection::kTopK && options.top_groups < options.groups;
}

/// Throws Error (usage) naming the option that is out of range: experts in 1..384, top_k in 1..32, groups in 1..32 and
/// a divisor of experts, top_groups in 1..groups, and top_k at most the experts of top_groups groups.
void check_router_options(const RouterOptions& options);

}  // namespace deeptitan
