#include "model/flops.h"

namespace deeptitan {
namespace {

struct LayerSize {
  int64_t all = 0;
  int64_t active = 0;
};

LayerSize layer_size(const ModelConfig& c, bool with_experts) {
  const int64_t d = c.hidden_size;
  const int64_t heads = c.num_attention_heads;
  int64_t attention = d * (c.kv_lora_rank + c.qk_rope_head_dim) + c.kv_lora_rank +
                      c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim) + heads * c.v_head_dim * d;
  if (c.q_lora_rank > 0) {
    attention += d * c.q_lora_rank + c.q_lora_rank + c.q_lora_rank * heads * c.qk_head_dim();
  } else {
    attention += d * heads * c.qk_head_dim();
  }
  if (c.attention_bias) attention += (c.q_lora_rank > 0 ? c.q_lora_rank : 0) + c.kv_lora_rank + c.qk_rope_head_dim + d;
  const int64_t always = attention + 2 * d;
  if (!with_experts) return {always + 3 * d * c.intermediate_size, always + 3 * d * c.intermediate_size};
  const int64_t expert = 3 * d * c.moe_intermediate_size;
  const int64_t router = d * c.n_routed_experts;
  const int64_t bias = c.topk_method == TopkMethod::kNoauxTc ? c.n_routed_experts : 0;
  const int64_t shared = expert * c.n_shared_experts;
  return {always + router + bias + shared + expert * c.n_routed_experts,
          always + router + bias + shared + expert * c.num_experts_per_tok};
}

double attention_flops(const ModelConfig& c, double context) {
  return 2.0 * static_cast<double>(c.num_attention_heads * (c.qk_head_dim() + c.v_head_dim)) * context;
}

}  // namespace

ModelSize count_parameters(const ModelConfig& c) {
  ModelSize size;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    const LayerSize one = layer_size(c, c.is_moe_layer(layer));
    size.parameters += one.all;
    size.active_parameters += one.active;
  }
  const int64_t table = c.vocab_size * c.hidden_size;
  size.parameters += c.hidden_size + table * (c.tie_word_embeddings ? 1 : 2);
  size.active_parameters += c.hidden_size + table;
  for (int64_t i = 0; i < c.num_nextn_predict_layers; ++i) {
    const LayerSize one = layer_size(c, c.is_moe_layer(c.num_hidden_layers + i));
    const int64_t join = 2 * c.hidden_size * c.hidden_size + 3 * c.hidden_size;
    size.mtp_parameters += one.all + join;
    size.mtp_active_parameters += one.active + join + table;
  }
  return size;
}

double forward_flops_per_token(const ModelConfig& c, double context) {
  return 2.0 * static_cast<double>(count_parameters(c).active_parameters) +
         static_cast<double>(c.num_hidden_layers) * attention_flops(c, context);
}

double decode_flops_per_token(const ModelConfig& c, double context) {
  const double latent = 2.0 * static_cast<double>(c.num_attention_heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim));
  return 2.0 * static_cast<double>(count_parameters(c).active_parameters) +
         static_cast<double>(c.num_hidden_layers) * latent * context;
}

double training_flops_per_token(const ModelConfig& c, int64_t seq_len) {
  const double context = (static_cast<double>(seq_len) + 1.0) / 2.0;
  const double mtp = 2.0 * static_cast<double>(count_parameters(c).mtp_active_parameters) +
                     static_cast<double>(c.num_nextn_predict_layers) * attention_flops(c, context);
  return 3.0 * (forward_flops_per_token(c, context) + mtp);
}

int64_t cache_bytes_per_token(const ModelConfig& c, int64_t element_size) {
  return c.num_hidden_layers * (c.kv_lora_rank + c.qk_rope_head_dim) * element_size;
}

}  // namespace deeptitan
