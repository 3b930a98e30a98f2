#include "config/model_config_json.h"

#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

// As on the hub: DeepSeek-V2-Lite, shortened to the fields that matter and some that do not.
constexpr std::string_view kHubV2Lite = R"({
  "architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config"}, "aux_loss_alpha": 0.001,
  "bos_token_id": 100000, "eos_token_id": 100001, "first_k_dense_replace": 1, "hidden_act": "silu",
  "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 10944, "kv_lora_rank": 512,
  "max_position_embeddings": 163840, "model_type": "deepseek_v2", "moe_intermediate_size": 1408, "moe_layer_freq": 1,
  "n_group": 1, "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": false, "num_attention_heads": 16,
  "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16, "pretraining_tp": 1,
  "q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
                   "original_max_position_embeddings": 4096, "type": "yarn"},
  "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax", "seq_aux": true,
  "tie_word_embeddings": false, "topk_group": 1, "topk_method": "greedy", "torch_dtype": "bfloat16",
  "transformers_version": "4.33.1", "use_cache": true, "v_head_dim": 128, "vocab_size": 102400})";

// As transformers 5 writes DeepSeek-V3: no scoring_func, no topk_method, rope_parameters.
constexpr std::string_view kTransformers5V3 = R"({
  "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 1, "first_k_dense_replace": 3,
  "head_dim": 64, "hidden_act": "silu", "hidden_size": 7168, "initializer_range": 0.02, "intermediate_size": 18432,
  "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048,
  "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 128,
  "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
  "output_router_logits": false, "pad_token_id": null, "pretraining_tp": 1, "q_lora_rank": 1536, "qk_head_dim": 192,
  "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_interleave": true,
  "rope_parameters": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                      "original_max_position_embeddings": 4096, "rope_theta": 10000.0, "rope_type": "yarn"},
  "routed_scaling_factor": 2.5, "tie_word_embeddings": false, "topk_group": 4, "transformers_version": "5.23.0",
  "use_cache": true, "v_head_dim": 128, "vocab_size": 129280})";

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result(text);
  const size_t at = result.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return result.replace(at, from.size(), to);
}

TEST(ModelConfigJson, ReadsTheHubsForm) {
  ModelConfig c = parse_model_config(kHubV2Lite, "config.json");
  EXPECT_NE(c.other_fields.find("auto_map"), std::string::npos);
  c.other_fields = "{}";
  EXPECT_TRUE(c == named_model_config("v2-lite"));
}

TEST(ModelConfigJson, ReadsTheFormOfTransformers5) {
  ModelConfig c = parse_model_config(kTransformers5V3, "config.json");
  c.other_fields = "{}";
  c.aux_loss_alpha = named_model_config("v3").aux_loss_alpha;  // transformers does not write it
  EXPECT_TRUE(c == named_model_config("v3"));
}

TEST(ModelConfigJson, EveryNamedShapeSurvivesTheRoundTrip) {
  for (const std::string& name : model_config_names()) {
    const ModelConfig c = named_model_config(name);
    EXPECT_TRUE(parse_model_config(to_json(c, "bfloat16"), name) == c) << to_json(c, "bfloat16");
  }
}

TEST(ModelConfigJson, EveryRopeKindSurvivesTheRoundTrip) {
  for (const RopeKind kind : {RopeKind::kPlain, RopeKind::kLinear, RopeKind::kDynamic, RopeKind::kYarn}) {
    ModelConfig c = named_model_config("tiny-v3");
    c.rope.kind = kind;
    if (kind != RopeKind::kPlain) {
      c.rope.factor = 4;
      c.rope.mscale_all_dim = 0.5;
    }
    c.rope.theta = 50000;
    c.rope.interleave = false;
    EXPECT_TRUE(parse_model_config(to_json(c, "float32"), "t") == c);
  }
}

TEST(ModelConfigJson, UnknownFieldsAreWrittenBack) {
  const std::string text =
      replaced(kHubV2Lite, "\"seq_aux\": true", "\"seq_aux\": true, \"my_note\": [1, {\"a\": null}]");
  const std::string written = to_json(parse_model_config(text, "config.json"), "bfloat16");
  EXPECT_NE(written.find("\"my_note\""), std::string::npos);
  EXPECT_NE(written.find("configuration_deepseek.DeepseekV2Config"), std::string::npos);
  EXPECT_EQ(to_json(parse_model_config(written, "again"), "bfloat16"), written);
}

TEST(ModelConfigJson, SeveralEndTokensAndNone) {
  ModelConfig c = named_model_config("tiny-v3");
  EXPECT_NE(to_json(c, "float32").find("\"eos_token_id\": null"), std::string::npos);
  c.eos_token_ids = {3, 5};
  EXPECT_EQ(parse_model_config(to_json(c, "float32"), "t").eos_token_ids, (std::vector<int64_t>{3, 5}));
}

TEST(ModelConfigJson, DenseModelIsWrittenWithDenseLayersOnly) {
  ModelConfig c = named_model_config("tiny-v2");
  c.n_routed_experts = 0;
  const ModelConfig back = parse_model_config(to_json(c, "float32"), "t");
  EXPECT_EQ(back.first_k_dense_replace, c.num_hidden_layers);
  EXPECT_EQ(back.num_moe_layers(), 0);
}

TEST(ModelConfigJson, Fp8WeightsAreSeenAndNotWrittenBack) {
  const std::string text = replaced(kTransformers5V3, "\"head_dim\": 64,",
                                    "\"quantization_config\": {\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\", "
                                    "\"quant_method\": \"fp8\", \"weight_block_size\": [128, 64]},");
  const ModelConfig c = parse_model_config(text, "config.json");
  EXPECT_EQ(c.fp8_weight_block_rows, 128);
  EXPECT_EQ(c.fp8_weight_block_columns, 64);
  EXPECT_EQ(to_json(c, "bfloat16").find("quantization_config"), std::string::npos);
  expect_usage_error([&] { parse_model_config(replaced(text, "\"fp8\"", "\"awq\""), "c"); },
                     "c: quantization_config.quant_method = \"awq\"; expected \"fp8\": weights can be read in fp32, "
                     "bf16, fp16, fp64 and fp8 (e4m3 "
                     "with weight_scale_inv); fetch the model in one of these, or dequantize it");
}

TEST(ModelConfigJson, EachMistakeHasItsMessage) {
  struct Case {
    std::string from, to, message;
  };
  const Case cases[] = {
      {"\"vocab_size\": 102400", "\"vocabulary\": 1", "c: vocab_size is missing"},
      {"\"hidden_size\": 2048", "\"hidden_size\": \"2048\"", "c: hidden_size = \"2048\"; expected a whole number"},
      {"\"hidden_size\": 2048", "\"hidden_size\": 2048.5", "c: hidden_size = 2048.5; expected a whole number"},
      {"\"seq_aux\": true", "\"seq_aux\": 1", "c: seq_aux = 1; expected true or false"},
      {"\"deepseek_v2\"", "\"deepseek_v4\"",
       "c: model_type = \"deepseek_v4\"; expected one of deepseek_v2, deepseek_v3, kimi_k2"},
      {"\"model_type\": \"deepseek_v2\",", "", "c: model_type is missing"},
      {"\"type\": \"yarn\"", "\"type\": \"yarm\"",
       "c: rope_scaling.type = \"yarm\"; expected one of default, linear, dynamic, yarn; did you mean 'yarn'?"},
      {"\"type\": \"yarn\"", "\"type\": \"longrope\"",
       "c: rope_scaling.type = \"longrope\"; expected one of default, linear, dynamic, yarn"},
      {", \"type\": \"yarn\"", ", \"original\": 1",
       "c: rope_scaling.original is not supported; did you mean 'original_max_position_embeddings'? (supported: type, "
       "rope_type, rope_theta, "
       "factor, original_max_position_embeddings, beta_fast, beta_slow, mscale, mscale_all_dim)"},
      {"\"factor\": 40,", "", "c: rope_scaling of type 'yarn' has no factor"},
      {"\"greedy\"", "\"gredy\"",
       "c: topk_method = \"gredy\"; expected one of greedy, group_limited_greedy, noaux_tc; did you mean 'greedy'?"},
      {"\"silu\"", "\"gelu\"", "c: hidden_act = \"gelu\"; expected \"silu\", the only activation of these models"},
      {"\"num_key_value_heads\": 16", "\"num_key_value_heads\": 4",
       "c: num_key_value_heads = 4; expected num_attention_heads = 16: latent attention has a key for each head"},
      {"\"num_experts_per_tok\": 6", "\"num_experts_per_tok\": 65",
       "c: num_experts_per_tok = 65 is more than n_routed_experts = 64; choose at most as many as there are"},
      {"\"eos_token_id\": 100001", "\"eos_token_id\": [1, \"x\"]",
       "c: eos_token_id = [1,\"x\"]; expected a token id from 0 to vocab_size - 1 = 102399, or a list of them"},
  };
  for (const Case& c : cases) {
    expect_usage_error([&] { parse_model_config(replaced(kHubV2Lite, c.from, c.to), "c"); }, c.message);
  }
  expect_usage_error([] { parse_model_config("[1]", "c"); }, "c: expected a JSON object, found array");
  EXPECT_THROW(parse_model_config("{\"a\": ", "c"), Error);
  EXPECT_THROW(parse_model_config("", "c"), Error);
}

// config.json of other names for the same graph, as published (numbers that the shape by name has too).
TEST(ModelConfigJson, OtherNamesOfTheSameGraphLoad) {
  const std::string kimi = R"({"architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}, "aux_loss_alpha": 0.001, "bos_token_id": 163584,
    "eos_token_id": 163585, "ep_size": 1, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 7168,
    "initializer_range": 0.02, "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 131072,
    "model_type": "kimi_k2", "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 384,
    "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 64, "num_experts_per_tok": 8,
    "num_hidden_layers": 61, "num_key_value_heads": 64, "num_nextn_predict_layers": 0, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_theta": 50000.0,
    "rope_scaling": {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0, "mscale": 1.0, "mscale_all_dim": 1.0,
      "original_max_position_embeddings": 4096, "type": "yarn"},
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
      "weight_block_size": [128, 128]},
    "routed_scaling_factor": 2.827, "scoring_func": "sigmoid", "seq_aux": true, "tie_word_embeddings": false,
    "topk_group": 1, "topk_method": "noaux_tc", "v_head_dim": 128, "vocab_size": 163840})";
  ModelConfig c = parse_model_config(kimi, "c");
  EXPECT_EQ(c.architecture, Architecture::kDeepseekV3);
  EXPECT_EQ(c.rope.beta_fast, c.rope.beta_slow);
  EXPECT_EQ(c.fp8_weight_block_rows, 128);
  // What is written is the graph's own name, which every reader knows.
  EXPECT_NE(to_json(c, "bfloat16").find("\"model_type\": \"deepseek_v3\""), std::string::npos);
  const ModelConfig named = named_model_config("kimi-k2");
  c.other_fields = named.other_fields;
  c.fp8_weight_block_rows = c.fp8_weight_block_columns = 0;
  EXPECT_EQ(to_json(c, "x"), to_json(named, "x"));
  for (const char* other : {"deepseek_v32", "deepseek_v4", "deepseek", "kimi_k25"}) {
    expect_usage_error(
        [&] { parse_model_config(replaced(kimi, "\"kimi_k2\"", std::string("\"") + other + "\""), "c"); },
        std::string("c: model_type = \"") + other + "\"; expected one of deepseek_v2, deepseek_v3, kimi_k2");
  }
}

TEST(ModelConfigJson, TokenIdsLieInTheVocabulary) {
  for (const char* id : {"4294967297", "-1", "999999", "18446744073709551615", "1.5"}) {
    const std::string text = replaced(kHubV2Lite, "\"eos_token_id\": 100001", std::string("\"eos_token_id\": ") + id);
    expect_usage_error([&] { parse_model_config(text, "c"); },
                       std::string("c: eos_token_id = ") + id +
                           "; expected a token id from 0 to vocab_size - 1 = 102399, or a list of them");
  }
}

TEST(ModelConfigJson, MissingFileIsNamed) {
  expect_usage_error([] { load_model_config("/nowhere/config.json"); },
                     "cannot read /nowhere/config.json: expected a Hugging Face config.json, or a directory that holds "
                     "one");
  const TemporaryFolder folder;
  const std::string loop = folder.path().string() + "/loop";
  std::filesystem::create_symlink("loop", loop);
  expect_usage_error([&] { load_model_config(loop); },
                     "cannot read " + loop +
                         ": expected a Hugging Face config.json, or a directory that holds one; Too many levels of "
                         "symbolic links");
}

TEST(ModelConfigOverrides, ReplaceFieldsAndKeepTheRest) {
  const ModelConfig base = named_model_config("tiny-v3");
  const ModelConfig c = with_overrides(
      base, R"({"num_attention_heads": 8, "q_lora_rank": null, "rope_scaling": {"rope_type": "linear", "factor": 2}})",
      "run.toml: model.shape");
  EXPECT_EQ(c.num_attention_heads, 8);
  EXPECT_EQ(c.q_lora_rank, 0);
  EXPECT_TRUE(c.rope.kind == RopeKind::kLinear);
  EXPECT_EQ(c.hidden_size, base.hidden_size);
  EXPECT_TRUE(with_overrides(base, "{}", "x") == base);
}

TEST(ModelConfigOverrides, ASmallerVocabularyHasNoneOfTheTokensBeyondIt) {
  const ModelConfig c = with_overrides(named_model_config("v2-lite"), R"({"vocab_size": 320})", "x");
  EXPECT_TRUE(c.eos_token_ids.empty());
  EXPECT_EQ(c.bos_token_id, -1);
  EXPECT_THROW(with_overrides(named_model_config("v3"), R"({"vocab_size": 320, "eos_token_id": 320})", "x"), Error);
}

TEST(ModelConfigOverrides, MergeIntoAnExistingRopeScaling) {
  const ModelConfig c = with_overrides(named_model_config("v3"), R"({"rope_scaling": {"factor": 8.0}})", "x");
  EXPECT_EQ(c.rope.factor, 8.0);
  EXPECT_TRUE(c.rope.kind == RopeKind::kYarn);
}

TEST(ModelConfigOverrides, UnknownFieldNamesTheNearest) {
  expect_usage_error(
      [] { with_overrides(named_model_config("tiny-v3"), R"({"n_routed_expert": 8})", "run.toml: model.shape"); },
      "run.toml: model.shape: unknown field 'n_routed_expert' of a model; did you mean 'n_routed_experts'?");
}

TEST(ModelConfigOverrides, ExpertsCanBeAddedToADenseModelAndRemoved) {
  ModelConfig dense = with_overrides(named_model_config("tiny-v3"), R"({"n_routed_experts": 0})", "x");
  EXPECT_EQ(dense.num_moe_layers(), 0);
}

}  // namespace
}  // namespace deeptitan
