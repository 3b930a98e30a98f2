#include "config/model_config.h"
#include "config/nearest_name.h"
#include "core/error.h"

namespace deeptitan {

namespace {

/// DeepSeek's YaRN: 40 times the 4096 positions trained at.
RopeConfig deepseek_yarn(double mscale) {
  RopeConfig rope;
  rope.kind = RopeKind::kYarn;
  rope.factor = 40;
  rope.original_max_position_embeddings = 4096;
  rope.mscale = mscale;
  rope.mscale_all_dim = mscale;
  return rope;
}

/// What all published DeepSeek-V2 and V3 models share.
ModelConfig published() {
  ModelConfig c;
  c.max_position_embeddings = 163840;
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  c.aux_loss_alpha = 0.001;
  return c;
}

void use_softmax_greedy(ModelConfig* c) {
  c->architecture = Architecture::kDeepseekV2;
  c->topk_method = TopkMethod::kGreedy;
  c->scoring_func = ScoringFunc::kSoftmax;
}

void use_sigmoid_noaux_tc(ModelConfig* c) {
  c->architecture = Architecture::kDeepseekV3;
  c->topk_method = TopkMethod::kNoauxTc;
  c->scoring_func = ScoringFunc::kSigmoid;
  c->norm_topk_prob = true;
  c->routed_scaling_factor = 2.5;
}

/// DeepSeek-V2-Lite (arXiv 2405.04434, appendix B, and its config.json on the hub).
ModelConfig v2_lite() {
  ModelConfig c = published();
  use_softmax_greedy(&c);
  c.vocab_size = 102400;
  c.hidden_size = 2048;
  c.intermediate_size = 10944;
  c.moe_intermediate_size = 1408;
  c.num_hidden_layers = 27;
  c.num_attention_heads = 16;
  c.n_routed_experts = 64;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  c.first_k_dense_replace = 1;
  c.rope = deepseek_yarn(0.707);
  c.bos_token_id = 100000;
  c.eos_token_ids = {100001};
  return c;
}

/// DeepSeek-V2 (arXiv 2405.04434, section 3.1.2, and its config.json on the hub).
ModelConfig v2() {
  ModelConfig c = v2_lite();
  c.hidden_size = 5120;
  c.intermediate_size = 12288;
  c.moe_intermediate_size = 1536;
  c.num_hidden_layers = 60;
  c.num_attention_heads = 128;
  c.q_lora_rank = 1536;
  c.n_routed_experts = 160;
  c.n_group = 8;
  c.topk_group = 3;
  c.topk_method = TopkMethod::kGroupLimitedGreedy;
  c.routed_scaling_factor = 16;
  return c;
}

/// DeepSeek-V3 (arXiv 2412.19437, section 4.2, and its config.json on the hub).
ModelConfig v3() {
  ModelConfig c = published();
  use_sigmoid_noaux_tc(&c);
  c.vocab_size = 129280;
  c.hidden_size = 7168;
  c.intermediate_size = 18432;
  c.moe_intermediate_size = 2048;
  c.num_hidden_layers = 61;
  c.num_attention_heads = 128;
  c.q_lora_rank = 1536;
  c.n_routed_experts = 256;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 8;
  c.n_group = 8;
  c.topk_group = 4;
  c.first_k_dense_replace = 3;
  c.num_nextn_predict_layers = 1;
  c.rope = deepseek_yarn(1.0);
  c.bos_token_id = 0;
  c.eos_token_ids = {1};
  return c;
}

/// Moonlight-16B-A3B of Moonshot AI (arXiv 2502.16982, and its config.json on the hub): DeepSeek-V3's graph at
/// V2-Lite's size, without groups.
ModelConfig moonlight() {
  ModelConfig c = published();
  use_sigmoid_noaux_tc(&c);
  c.vocab_size = 163840;
  c.hidden_size = 2048;
  c.intermediate_size = 11264;
  c.moe_intermediate_size = 1408;
  c.num_hidden_layers = 27;
  c.num_attention_heads = 16;
  c.max_position_embeddings = 8192;
  c.n_routed_experts = 64;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  c.routed_scaling_factor = 2.446;
  c.first_k_dense_replace = 1;
  c.rms_norm_eps = 1e-5;
  c.rope.theta = 50000;
  c.bos_token_id = 163584;
  c.eos_token_ids = {163585};
  return c;
}

/// Kimi-K2 of Moonshot AI (arXiv 2507.20534, and the config.json of Kimi-K2-Instruct on the hub).
ModelConfig kimi_k2() {
  ModelConfig c = v3();
  c.vocab_size = 163840;
  c.num_attention_heads = 64;
  c.max_position_embeddings = 131072;
  c.n_routed_experts = 384;
  c.n_group = 1;
  c.topk_group = 1;
  c.routed_scaling_factor = 2.827;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 0;
  c.rope = deepseek_yarn(1.0);
  c.rope.theta = 50000;
  c.rope.factor = 32;
  c.rope.beta_fast = 1;
  c.rope.beta_slow = 1;
  c.bos_token_id = 163584;
  c.eos_token_ids = {163585};
  return c;
}

/// GigaChat3-10B-A1.8B of Sber (its config.json on the hub).
ModelConfig gigachat3_10b() {
  ModelConfig c = published();
  use_sigmoid_noaux_tc(&c);
  c.vocab_size = 128256;
  c.hidden_size = 1536;
  c.intermediate_size = 8960;
  c.moe_intermediate_size = 1280;
  c.num_hidden_layers = 26;
  c.num_attention_heads = 32;
  c.max_position_embeddings = 262144;
  c.v_head_dim = 192;
  c.n_routed_experts = 64;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 4;
  c.routed_scaling_factor = 1.0;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 1;
  c.rope = deepseek_yarn(1.0);
  c.rope.theta = 100000;
  c.rope.factor = 64;
  c.bos_token_id = 1;
  c.eos_token_ids = {2};
  return c;
}

/// DeepSeek-V3's parts at a size that two CPU cores train in minutes: 8.5 million parameters, 3.9 million active.
ModelConfig tiny_v3() {
  ModelConfig c;
  use_sigmoid_noaux_tc(&c);
  c.vocab_size = 4096;
  c.hidden_size = 256;
  c.intermediate_size = 768;
  c.moe_intermediate_size = 128;
  c.num_hidden_layers = 4;
  c.num_attention_heads = 4;
  c.max_position_embeddings = 2048;
  c.q_lora_rank = 128;
  c.kv_lora_rank = 64;
  c.qk_nope_head_dim = 64;
  c.qk_rope_head_dim = 32;
  c.v_head_dim = 64;
  c.n_routed_experts = 16;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 4;
  c.n_group = 4;
  c.topk_group = 2;
  c.first_k_dense_replace = 1;
  return c;
}

/// The same size with DeepSeek-V2-Lite's parts: softmax router, no q_lora, two shared experts, weights not normalised.
ModelConfig tiny_v2() {
  ModelConfig c = tiny_v3();
  use_softmax_greedy(&c);
  c.norm_topk_prob = false;
  c.routed_scaling_factor = 1.0;
  c.q_lora_rank = 0;
  c.n_shared_experts = 2;
  c.n_group = 1;
  c.topk_group = 1;
  return c;
}

struct NamedShape {
  std::string_view name;
  ModelConfig (*make)();
};
constexpr NamedShape kShapes[] = {
    {"tiny-v3", tiny_v3}, {"tiny-v2", tiny_v2},     {"v2-lite", v2_lite}, {"v2", v2},
    {"v3", v3},           {"moonlight", moonlight}, {"kimi-k2", kimi_k2}, {"gigachat3-10b", gigachat3_10b}};

}  // namespace

std::vector<std::string> model_config_names() {
  std::vector<std::string> names;
  for (const NamedShape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

ModelConfig named_model_config(std::string_view name) {
  for (const NamedShape& shape : kShapes) {
    if (shape.name == name) return shape.make();
  }
  const std::vector<std::string> names = model_config_names();
  fail_usage("unknown model '{}'{} (models: {}; or give the path of a config.json as model.config)", name,
             did_you_mean(name, names), fmt::join(names, ", "));
}

}  // namespace deeptitan
