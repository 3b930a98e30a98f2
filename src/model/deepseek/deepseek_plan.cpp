#include "model/deepseek/deepseek_plan.h"

#include "model/attention/rope_table.h"

namespace deeptitan {
namespace {

LatentAttentionPlan attention_plan(const ModelConfig& c, const std::string& name) {
  const bool bottleneck = c.q_lora_rank > 0;
  return {.shape = {.heads = c.num_attention_heads,
                    .nope_dim = c.qk_nope_head_dim,
                    .rope_dim = c.qk_rope_head_dim,
                    .value_dim = c.v_head_dim,
                    .scale = RopeTable::softmax_scale(c)},
          .latent_dim = c.kv_lora_rank,
          .query_rank = c.q_lora_rank,
          .bias = c.attention_bias,
          .rotate_halves = !c.rope.interleave,
          .query_down = name + ".q_a_proj",
          .query_norm = name + ".q_a_layernorm",
          .query = name + (bottleneck ? ".q_b_proj" : ".q_proj"),
          .latent_down = name + ".kv_a_proj_with_mqa",
          .latent_norm = name + ".kv_a_layernorm",
          .key_value = name + ".kv_b_proj",
          .out = name + ".o_proj"};
}

GatedMlpPlan mlp_plan(const std::string& name, int64_t width) {
  return {.width = width,
          .gate_up = name + ".gate_up_proj",
          .gate = name + ".gate_proj",
          .up = name + ".up_proj",
          .down = name + ".down_proj"};
}

ExpertsPlan experts_plan(const ModelConfig& c, const std::string& name) {
  const GatedMlpPlan expert = mlp_plan(name + ".experts.{}", c.moe_intermediate_size);
  ExpertsPlan plan{.router = deepseek_router(c),
                   .width = expert.width,
                   .router_weight = name + ".gate",
                   .router_bias = name + ".gate.e_score_correction_bias",
                   .gate_up = expert.gate_up,
                   .gate = expert.gate,
                   .up = expert.up,
                   .down = expert.down,
                   .shared = {}};
  if (c.n_shared_experts > 0) {
    plan.shared = mlp_plan(name + ".shared_experts", c.moe_intermediate_size * c.n_shared_experts);
  }
  return plan;
}

LayerPlan layer_plan(const ModelConfig& c, int64_t index) {
  const std::string name = "model.layers." + std::to_string(index);
  LayerPlan plan{.index = index,
                 .residual = ResidualKind::kPreNorm,
                 .hidden = c.hidden_size,
                 .norm_epsilon = c.rms_norm_eps,
                 .attention_norm = name + ".input_layernorm",
                 .feed_forward_norm = name + ".post_attention_layernorm",
                 .attention = attention_plan(c, name + ".self_attn"),
                 .feed_forward = {}};
  if (c.is_moe_layer(index)) {
    plan.feed_forward = experts_plan(c, name + ".mlp");
  } else {
    plan.feed_forward = mlp_plan(name + ".mlp", c.intermediate_size);
  }
  return plan;
}

}  // namespace

RouterOptions deepseek_router(const ModelConfig& c) {
  RouterOptions options;
  switch (c.scoring_func) {
    case ScoringFunc::kSoftmax:
      options.scoring = RouterScoring::kSoftmax;
      break;
    case ScoringFunc::kSigmoid:
      options.scoring = RouterScoring::kSigmoid;
      break;
  }
  switch (c.topk_method) {
    case TopkMethod::kGreedy:
      options.selection = RouterSelection::kTopK;
      break;
    case TopkMethod::kGroupLimitedGreedy:
      options.selection = RouterSelection::kGroupsByBest;
      break;
    case TopkMethod::kNoauxTc:
      options.selection = RouterSelection::kGroupsByTwoBest;
      options.bias = true;
      break;
  }
  options.experts = static_cast<int>(c.n_routed_experts);
  options.top_k = static_cast<int>(c.num_experts_per_tok);
  options.groups = static_cast<int>(c.n_group);
  options.top_groups = static_cast<int>(c.topk_group);
  options.normalize_top_k = c.norm_topk_prob;
  options.scaling_factor = static_cast<float>(c.routed_scaling_factor);
  return options;
}

ModelPlan plan_deepseek(const ModelConfig& c) {
  ModelPlan plan{.embedding = "model.embed_tokens",
                 .layers = {},
                 .final_norm = "model.norm",
                 .head = c.tie_word_embeddings ? "" : "lm_head",
                 .next_token_prediction = {}};
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) plan.layers.push_back(layer_plan(c, i));
  for (int64_t i = 0; i < c.num_nextn_predict_layers; ++i) {
    const LayerPlan layer = layer_plan(c, c.num_hidden_layers + i);
    const std::string name = "model.layers." + std::to_string(layer.index);
    plan.next_token_prediction.push_back({.layer = layer,
                                          .embedding_norm = name + ".enorm",
                                          .hidden_norm = name + ".hnorm",
                                          .join = name + ".eh_proj",
                                          .out_norm = name + ".shared_head.norm"});
  }
  return plan;
}

}  // namespace deeptitan
