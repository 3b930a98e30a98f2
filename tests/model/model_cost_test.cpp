#include "model/model_cost.h"

#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "support/tiny_model.h"

namespace deeptitan {
namespace {

// The same numbers by hand, from the shapes alone: matrices (which are multiplied) and vectors (which are not).
struct LayerSize {
  int64_t matrices = 0;
  int64_t active_matrices = 0;
  int64_t vectors = 0;
};

LayerSize layer_size(const ModelConfig& c, bool with_experts) {
  const int64_t d = c.hidden_size;
  const int64_t heads = c.num_attention_heads;
  LayerSize size;
  size.matrices = d * (c.kv_lora_rank + c.qk_rope_head_dim) +
                  c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim) + heads * c.v_head_dim * d;
  size.matrices += c.q_lora_rank > 0 ? c.q_lora_rank * (d + heads * c.qk_head_dim()) : d * heads * c.qk_head_dim();
  size.vectors = 2 * d + c.kv_lora_rank + c.q_lora_rank;
  if (c.attention_bias) size.vectors += c.q_lora_rank + c.kv_lora_rank + c.qk_rope_head_dim + d;
  size.active_matrices = size.matrices;
  if (!with_experts) {
    size.matrices += 3 * d * c.intermediate_size;
    size.active_matrices += 3 * d * c.intermediate_size;
    return size;
  }
  const int64_t expert = 3 * d * c.moe_intermediate_size;
  const int64_t always = d * c.n_routed_experts + expert * c.n_shared_experts;
  size.matrices += always + expert * c.n_routed_experts;
  size.active_matrices += always + expert * c.num_experts_per_tok;
  if (c.topk_method == TopkMethod::kNoauxTc) size.vectors += c.n_routed_experts;
  return size;
}

double layers_flops(const ModelConfig& c, int64_t first, int64_t end, double attention) {
  double flops = 0;
  for (int64_t i = first; i < end; ++i) {
    flops += 2.0 * static_cast<double>(layer_size(c, c.is_moe_layer(i)).active_matrices) + attention;
  }
  return flops;
}

std::vector<std::pair<std::string, ModelConfig>> configs() {
  std::vector<std::pair<std::string, ModelConfig>> result = {{"tests' v3", testing::tiny_v3()},
                                                             {"tests' v2", testing::tiny_v2()}};
  for (const std::string& name : model_config_names()) result.emplace_back(name, named_model_config(name));
  return result;
}

TEST(ModelCost, ParametersAreThoseOfTheShapes) {
  for (const auto& [name, c] : configs()) {
    const int64_t table = c.vocab_size * c.hidden_size;
    int64_t all = table * (c.tie_word_embeddings ? 1 : 2) + c.hidden_size;
    int64_t active = table + c.hidden_size;
    for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
      const LayerSize layer = layer_size(c, c.is_moe_layer(i));
      all += layer.matrices + layer.vectors;
      active += layer.active_matrices + layer.vectors;
    }
    const ModelSize size = count_parameters(c);
    EXPECT_EQ(size.parameters, all) << name;
    EXPECT_EQ(size.active_parameters, active) << name;
    const int64_t d = c.hidden_size;
    const LayerSize module = layer_size(c, c.is_moe_layer(c.num_hidden_layers));
    const int64_t join = 2 * d * d + 3 * d;
    EXPECT_EQ(size.mtp_parameters, c.num_nextn_predict_layers * (module.matrices + module.vectors + join)) << name;
    EXPECT_EQ(size.mtp_active_parameters,
              c.num_nextn_predict_layers * (module.active_matrices + module.vectors + join + table))
        << name;
  }
}

TEST(ModelCost, OperationsAreThoseOfTheProducts) {
  for (const auto& [name, c] : configs()) {
    const int64_t tokens = 48;
    const int64_t layers = c.num_hidden_layers;
    const auto heads = static_cast<double>(c.num_attention_heads);
    const double head = 2.0 * static_cast<double>(c.vocab_size * c.hidden_size);
    const double attention = 2.0 * heads * static_cast<double>(c.qk_head_dim() + c.v_head_dim) * (tokens + 1) / 2;
    const double forward = layers_flops(c, 0, layers, attention) + head;
    EXPECT_NEAR(forward_flops_per_token(c, tokens), forward, 1e-9 * forward) << name;

    const double latent = 2.0 * heads * static_cast<double>(2 * c.kv_lora_rank + c.qk_rope_head_dim) * (tokens + 1);
    const double decode = layers_flops(c, 0, layers, latent) + head;
    EXPECT_NEAR(decode_flops_per_token(c, tokens), decode, 1e-9 * decode) << name;

    double training = 3 * forward;
    for (int64_t i = 0; i < c.num_nextn_predict_layers; ++i) {
      const double join = 4.0 * static_cast<double>(c.hidden_size * c.hidden_size);
      training += 3 * (layers_flops(c, layers + i, layers + i + 1, attention) + join + head);
    }
    EXPECT_NEAR(training_flops_per_token(c, tokens), training, 1e-9 * training) << name;
  }
}

TEST(ModelCost, MoreModulesCostAsMuchEach) {
  ModelConfig two = testing::tiny_v3();
  const ModelSize one_module = count_parameters(two);
  const double with_one = training_flops_per_token(two, 16);
  two.num_nextn_predict_layers = 0;
  const double without = training_flops_per_token(two, 16);
  two.num_nextn_predict_layers = 2;
  EXPECT_EQ(count_parameters(two).mtp_parameters, 2 * one_module.mtp_parameters);
  EXPECT_DOUBLE_EQ(training_flops_per_token(two, 16), 2 * with_one - without);
}

TEST(ModelCost, CacheHoldsALatentAndARopeKey) {
  const ModelConfig c = named_model_config("v2-lite");
  EXPECT_EQ(cache_bytes_per_token(c, DType::kBF16), 27 * (512 + 64) * 2);
  EXPECT_EQ(cache_bytes_per_token(c, DType::kF32), 27 * (512 + 64) * 4);
}

}  // namespace
}  // namespace deeptitan
