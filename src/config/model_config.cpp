#include "config/model_config.h"

#include <limits>
#include <utility>

#include "core/error.h"

namespace deeptitan {

namespace {

constexpr int64_t kMostParts = 10'000;
constexpr int64_t kMostExperts = 1'000'000;
constexpr double kMostParameters = 1e15;

void check_at_least(std::string_view where, std::string_view field, int64_t value, int64_t least) {
  DT_CHECK_USAGE(value >= least && value <= std::numeric_limits<int32_t>::max(),
                 "{}: {} = {}; expected a whole number from {} to {}", where, field, value, least,
                 std::numeric_limits<int32_t>::max());
}

void check_positive(std::string_view where, std::string_view field, double value) {
  DT_CHECK_USAGE(value > 0 && value < std::numeric_limits<double>::infinity(),
                 "{}: {} = {}; expected a number greater than 0", where, field, value);
}

// As a real number, which does not overflow.
double parameters_about(const ModelConfig& c) {
  const auto real = [](int64_t value) { return static_cast<double>(value); };
  const double hidden = real(c.hidden_size), heads = real(c.num_attention_heads), latent = real(c.kv_lora_rank),
               query = heads * (real(c.qk_nope_head_dim) + real(c.qk_rope_head_dim)), q_latent = real(c.q_lora_rank);
  const double attention =
      (q_latent > 0 ? q_latent * (hidden + query) : hidden * query) + hidden * (latent + real(c.qk_rope_head_dim)) +
      latent * heads * (real(c.qk_nope_head_dim) + real(c.v_head_dim)) + heads * real(c.v_head_dim) * hidden;
  const double experts = real(c.moe_intermediate_size) * (real(c.n_routed_experts) + real(c.n_shared_experts));
  const double layer = attention + 3 * hidden * (real(c.intermediate_size) + experts);
  return 2 * real(c.vocab_size) * hidden + (real(c.num_hidden_layers) + real(c.num_nextn_predict_layers)) * layer;
}

void validate_experts(const ModelConfig& c, std::string_view where) {
  check_at_least(where, "moe_intermediate_size", c.moe_intermediate_size, 1);
  check_at_least(where, "n_shared_experts", c.n_shared_experts, 0);
  check_at_least(where, "num_experts_per_tok", c.num_experts_per_tok, 1);
  check_at_least(where, "n_group", c.n_group, 1);
  check_at_least(where, "topk_group", c.topk_group, 1);
  check_positive(where, "routed_scaling_factor", c.routed_scaling_factor);
  DT_CHECK_USAGE(c.num_experts_per_tok <= c.n_routed_experts,
                 "{}: num_experts_per_tok = {} is more than n_routed_experts = {}; choose at most as many as there are",
                 where, c.num_experts_per_tok, c.n_routed_experts);
  const bool v3 = c.architecture == Architecture::kDeepseekV3;
  DT_CHECK_USAGE(v3 == (c.topk_method == TopkMethod::kNoauxTc),
                 "{}: topk_method = '{}' does not go with {}, whose experts are chosen by {}", where,
                 name_of(c.topk_method), name_of(c.architecture), v3 ? "noaux_tc" : "greedy or group_limited_greedy");
  DT_CHECK_USAGE(v3 == (c.scoring_func == ScoringFunc::kSigmoid),
                 "{}: scoring_func = '{}' does not go with {}, whose routers use {}", where, name_of(c.scoring_func),
                 name_of(c.architecture), v3 ? "sigmoid" : "softmax");
  if (c.topk_method == TopkMethod::kGreedy) return;
  DT_CHECK_USAGE(c.n_routed_experts % c.n_group == 0,
                 "{}: n_group = {} does not divide n_routed_experts = {}; groups are of equal size", where, c.n_group,
                 c.n_routed_experts);
  DT_CHECK_USAGE(c.topk_group <= c.n_group, "{}: topk_group = {} is more than n_group = {}", where, c.topk_group,
                 c.n_group);
  const int64_t group_size = c.n_routed_experts / c.n_group;
  DT_CHECK_USAGE(c.num_experts_per_tok <= c.topk_group * group_size,
                 "{}: num_experts_per_tok = {} is more than the {} experts in topk_group = {} groups of {}", where,
                 c.num_experts_per_tok, c.topk_group * group_size, c.topk_group, group_size);
  DT_CHECK_USAGE(c.topk_method != TopkMethod::kNoauxTc || group_size >= 2,
                 "{}: n_group = {} leaves one expert a group, but noaux_tc scores a group by its two best; use n_group "
                 "= {} or fewer",
                 where, c.n_group, c.n_routed_experts / 2);
}

void validate_rope(const ModelConfig& c, std::string_view where) {
  check_positive(where, "rope_theta", c.rope.theta);
  DT_CHECK_USAGE(c.qk_rope_head_dim % 2 == 0, "{}: qk_rope_head_dim = {} is odd; rotation takes elements in pairs",
                 where, c.qk_rope_head_dim);
  DT_CHECK_USAGE(
      c.rope.interleave || c.architecture == Architecture::kDeepseekV3,
      "{}: rope_interleave = false, which a deepseek_v2 model does not have: its weights rotate neighbouring "
      "elements",
      where);
  if (c.rope.kind == RopeKind::kPlain) return;
  DT_CHECK_USAGE(c.rope.factor >= 1 && c.rope.factor < std::numeric_limits<double>::infinity(),
                 "{}: rope_scaling.factor = {}; expected a number of at least 1", where, c.rope.factor);
  check_at_least(where, "rope_scaling.original_max_position_embeddings", c.rope.original_max_position_embeddings, 0);
  DT_CHECK_USAGE(c.rope.mscale >= 0 && c.rope.mscale_all_dim >= 0,
                 "{}: rope_scaling.mscale = {} and mscale_all_dim = {} must not be negative", where, c.rope.mscale,
                 c.rope.mscale_all_dim);
  if (c.rope.kind != RopeKind::kYarn) return;
  check_positive(where, "rope_scaling.beta_slow", c.rope.beta_slow);
  DT_CHECK_USAGE(c.rope.beta_fast >= c.rope.beta_slow,
                 "{}: rope_scaling.beta_fast = {} must not be less than rope_scaling.beta_slow = {}", where,
                 c.rope.beta_fast, c.rope.beta_slow);
}

}  // namespace

int64_t ModelConfig::num_moe_layers() const {
  int64_t count = 0;
  for (int64_t layer = 0; layer < num_hidden_layers; ++layer) count += is_moe_layer(layer);
  return count;
}

void validate(const ModelConfig& c, std::string_view where) {
  const std::pair<std::string_view, int64_t> sizes[] = {{"vocab_size", c.vocab_size},
                                                        {"hidden_size", c.hidden_size},
                                                        {"num_hidden_layers", c.num_hidden_layers},
                                                        {"num_attention_heads", c.num_attention_heads},
                                                        {"max_position_embeddings", c.max_position_embeddings},
                                                        {"kv_lora_rank", c.kv_lora_rank},
                                                        {"qk_nope_head_dim", c.qk_nope_head_dim},
                                                        {"qk_rope_head_dim", c.qk_rope_head_dim},
                                                        {"v_head_dim", c.v_head_dim},
                                                        {"moe_layer_freq", c.moe_layer_freq}};
  for (const auto& [field, value] : sizes) check_at_least(where, field, value, 1);
  check_at_least(where, "q_lora_rank", c.q_lora_rank, 0);
  check_at_least(where, "n_routed_experts", c.n_routed_experts, 0);
  // Every layer and expert is planned by itself, which takes time and memory before anything can be said of it.
  const std::pair<std::string_view, int64_t> counts[] = {{"num_hidden_layers", c.num_hidden_layers},
                                                         {"n_routed_experts", c.n_routed_experts},
                                                         {"num_nextn_predict_layers", c.num_nextn_predict_layers}};
  for (const auto& [field, value] : counts) {
    DT_CHECK_USAGE(value <= kMostParts, "{}: {} = {}; expected a whole number of at most {}", where, field, value,
                   kMostParts);
  }
  DT_CHECK_USAGE((c.num_hidden_layers + c.num_nextn_predict_layers) * c.n_routed_experts <= kMostExperts,
                 "{}: num_hidden_layers = {} of n_routed_experts = {} are more than {} experts", where,
                 c.num_hidden_layers, c.n_routed_experts, kMostExperts);
  check_at_least(where, "first_k_dense_replace", c.first_k_dense_replace, 0);
  check_at_least(where, "num_nextn_predict_layers", c.num_nextn_predict_layers, 0);
  check_positive(where, "rms_norm_eps", c.rms_norm_eps);
  check_positive(where, "initializer_range", c.initializer_range);
  DT_CHECK_USAGE(c.aux_loss_alpha >= 0 && c.aux_loss_alpha < std::numeric_limits<double>::infinity(),
                 "{}: aux_loss_alpha = {}; expected a number of at least 0", where, c.aux_loss_alpha);
  if (c.num_moe_layers() < c.num_hidden_layers) {
    check_at_least(where, "intermediate_size", c.intermediate_size, 1);
  }
  if (c.n_routed_experts > 0) validate_experts(c, where);
  validate_rope(c, where);
  DT_CHECK_USAGE(
      parameters_about(c) <= kMostParameters,
      "{}: the sizes make a model of about {:.2g} parameters, which no memory holds (up to {:.0e} are planned); "
      "is one of them mistyped?",
      where, parameters_about(c), kMostParameters);
}

std::string_view name_of(Architecture value) {
  return value == Architecture::kDeepseekV2 ? "deepseek_v2" : "deepseek_v3";
}

std::string_view name_of(TopkMethod value) {
  switch (value) {
    case TopkMethod::kGreedy:
      return "greedy";
    case TopkMethod::kGroupLimitedGreedy:
      return "group_limited_greedy";
    case TopkMethod::kNoauxTc:
      break;
  }
  return "noaux_tc";
}

std::string_view name_of(ScoringFunc value) {
  switch (value) {
    case ScoringFunc::kSoftmax:
      return "softmax";
    case ScoringFunc::kSigmoid:
      break;
  }
  return "sigmoid";
}

std::string_view name_of(RopeKind value) {
  switch (value) {
    case RopeKind::kPlain:
      return "default";
    case RopeKind::kLinear:
      return "linear";
    case RopeKind::kDynamic:
      return "dynamic";
    case RopeKind::kYarn:
      break;
  }
  return "yarn";
}

}  // namespace deeptitan
