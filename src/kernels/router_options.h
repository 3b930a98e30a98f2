#pragma once

#include <cstdint>

namespace deeptitan {

/// How a router turns logits into scores and chooses among them. The names are those of `topk_method` in DeepSeek's
/// config.json.
enum class RouterKind {
  kSoftmaxGreedy,              // "greedy": DeepSeek-V2-Lite
  kSoftmaxGroupLimitedGreedy,  // "group_limited_greedy": DeepSeek-V2
  kSigmoidNoauxTc,             // "noaux_tc": DeepSeek-V3
};

struct RouterOptions {
  RouterKind kind = RouterKind::kSoftmaxGreedy;
  int experts = 0;               // E, 1 to kMaxExperts
  int top_k = 0;                 // K, 1 to kMaxTopK
  int groups = 1;                // expert groups of equal size (not read by kSoftmaxGreedy)
  int top_groups = 1;            // groups that a token may use (not read by kSoftmaxGreedy)
  bool normalize_top_k = false;  // divide a token's weights by their sum (where K > 1)
  float scaling_factor = 1.0f;   // routed_scaling_factor
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

/// Throws Error (usage) naming the option that is out of range: experts in 1..384, top_k in 1..32, groups in 1..32 and
/// a divisor of experts, top_groups in 1..groups, and top_k at most the experts of top_groups groups.
void check_router_options(const RouterOptions& options);

}  // namespace deeptitan
