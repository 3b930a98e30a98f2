#include "config/model_config.h"

#include <functional>

#include <gtest/gtest.h>

#include "core/error.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

TEST(NamedModelConfig, EveryShapeIsValid) {
  for (const std::string& name : model_config_names()) {
    EXPECT_NO_THROW(validate(named_model_config(name), name)) << name;
  }
}

TEST(NamedModelConfig, UnknownNameNamesTheNearest) {
  expect_usage_error([] { named_model_config("tiny-v4"); },
                     "unknown model 'tiny-v4'; did you mean 'tiny-v3'? (models: tiny-v3, tiny-v2, v2-lite, v2, v3, "
                     "moonlight, kimi-k2, gigachat3-10b; or "
                     "give the path of a config.json as model.config)");
}

TEST(ModelConfig, DenseLayersComeFirst) {
  ModelConfig c = named_model_config("v3");
  EXPECT_EQ(c.num_moe_layers(), 58);
  EXPECT_FALSE(c.is_moe_layer(2));
  EXPECT_TRUE(c.is_moe_layer(3));
  EXPECT_TRUE(c.is_moe_layer(61));  // the next-token-prediction module
  c.moe_layer_freq = 2;
  EXPECT_FALSE(c.is_moe_layer(3));
  EXPECT_TRUE(c.is_moe_layer(4));
  c.n_routed_experts = 0;
  EXPECT_EQ(c.num_moe_layers(), 0);
}

TEST(ModelConfig, TinyHasTheMeasuredParameters) {
  // measured: 8.5 million parameters, 3.9 million active (embedding and head among them).
  const ModelConfig c = named_model_config("tiny-v3");
  const int64_t attention = c.hidden_size * c.q_lora_rank + c.q_lora_rank * c.num_attention_heads * c.qk_head_dim() +
                            c.hidden_size * (c.kv_lora_rank + c.qk_rope_head_dim) +
                            c.kv_lora_rank * c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim) +
                            c.num_attention_heads * c.v_head_dim * c.hidden_size;
  const int64_t expert = 3 * c.hidden_size * c.moe_intermediate_size;
  const int64_t all = 2 * c.vocab_size * c.hidden_size + c.num_hidden_layers * attention +
                      3 * c.hidden_size * c.intermediate_size +
                      c.num_moe_layers() * (c.n_routed_experts + c.n_shared_experts) * expert;
  EXPECT_NEAR(static_cast<double>(all), 8.5e6, 0.1e6);
}

TEST(ValidateModelConfig, EachMisfitHasItsMessage) {
  struct Case {
    std::string_view shape;
    std::function<void(ModelConfig&)> change;
    std::string message;
  };
  const Case cases[] = {
      {"tiny-v3", [](ModelConfig& c) { c.hidden_size = 0; },
       "m: hidden_size = 0; expected a whole number from 1 to 2147483647"},
      {"tiny-v3", [](ModelConfig& c) { c.vocab_size = int64_t{1} << 40; },
       "m: vocab_size = 1099511627776; expected a whole number from 1 to 2147483647"},
      {"tiny-v3", [](ModelConfig& c) { c.num_hidden_layers = 1'000'000'000; },
       "m: num_hidden_layers = 1000000000; expected a whole number of at most 10000"},
      {"tiny-v3", [](ModelConfig& c) { c.num_nextn_predict_layers = 10001; },
       "m: num_nextn_predict_layers = 10001; expected a whole number of at most 10000"},
      {"tiny-v3", [](ModelConfig& c) { c.num_hidden_layers = 5000, c.n_routed_experts = 400; },
       "m: num_hidden_layers = 5000 of n_routed_experts = 400 are more than 1000000 experts"},
      {"tiny-v3", [](ModelConfig& c) { c.hidden_size = c.intermediate_size = 2147483647; },
       "m: the sizes make a model of about 5.5e+19 parameters, which no memory holds (up to 1e+15 are planned); is one "
       "of "
       "them mistyped?"},
      {"tiny-v3", [](ModelConfig& c) { c.num_experts_per_tok = 17; },
       "m: num_experts_per_tok = 17 is more than n_routed_experts = 16; choose at most as many as there are"},
      {"tiny-v3", [](ModelConfig& c) { c.n_group = 3; },
       "m: n_group = 3 does not divide n_routed_experts = 16; groups are of equal size"},
      {"tiny-v3", [](ModelConfig& c) { c.topk_group = 5; }, "m: topk_group = 5 is more than n_group = 4"},
      {"tiny-v3", [](ModelConfig& c) { c.num_experts_per_tok = 9; },
       "m: num_experts_per_tok = 9 is more than the 8 experts in topk_group = 2 groups of 4"},
      {"tiny-v3", [](ModelConfig& c) { c.n_group = 16, c.topk_group = 8; },
       "m: n_group = 16 leaves one expert a group, but noaux_tc scores a group by its two best; use n_group = 8 or "
       "fewer"},
      {"tiny-v3", [](ModelConfig& c) { c.scoring_func = ScoringFunc::kSoftmax; },
       "m: scoring_func = 'softmax' does not go with deepseek_v3, whose routers use sigmoid"},
      {"tiny-v2", [](ModelConfig& c) { c.topk_method = TopkMethod::kNoauxTc; },
       "m: topk_method = 'noaux_tc' does not go with deepseek_v2, whose experts are chosen by greedy or "
       "group_limited_greedy"},
      {"tiny-v3", [](ModelConfig& c) { c.qk_rope_head_dim = 31; },
       "m: qk_rope_head_dim = 31 is odd; rotation takes elements in pairs"},
      {"tiny-v2", [](ModelConfig& c) { c.rope.interleave = false; },
       "m: rope_interleave = false, which a deepseek_v2 model does not have: its weights rotate neighbouring elements"},
      {"tiny-v3", [](ModelConfig& c) { c.rms_norm_eps = 0; }, "m: rms_norm_eps = 0; expected a number greater than 0"},
      {"v3", [](ModelConfig& c) { c.rope.factor = 0.5; },
       "m: rope_scaling.factor = 0.5; expected a number of at least 1"},
      {"v3", [](ModelConfig& c) { c.rope.beta_fast = 0.5; },
       "m: rope_scaling.beta_fast = 0.5 must not be less than rope_scaling.beta_slow = 1"},
  };
  for (const Case& c : cases) {
    ModelConfig config = named_model_config(c.shape);
    c.change(config);
    expect_usage_error([&] { validate(config, "m"); }, c.message);
  }
}

TEST(ValidateModelConfig, GroupsOfAGreedyRouterAreNotLookedAt) {
  ModelConfig c = named_model_config("tiny-v2");
  c.n_group = 3;
  EXPECT_NO_THROW(validate(c, "m"));
}

}  // namespace
}  // namespace deeptitan
