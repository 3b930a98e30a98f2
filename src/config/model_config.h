#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace deeptitan {

/// Which Hugging Face class a model is: DeepseekV2ForCausalLM or DeepseekV3ForCausalLM.
enum class Architecture { kDeepseekV2, kDeepseekV3 };

/// How a token's experts are chosen. kGreedy: the best of all (V2-Lite). kGroupLimitedGreedy: the best inside the best
/// groups, a group's score being its best expert's (V2). kNoauxTc: the same with a bias added only for choosing, a
/// group's score being the sum of its two best (V3).
enum class TopkMethod { kGreedy, kGroupLimitedGreedy, kNoauxTc };

/// From router logits to scores.
enum class ScoringFunc { kSoftmax, kSigmoid };

/// How rotary angles are stretched beyond the length the model was trained at.
enum class RopeKind { kPlain, kLinear, kDynamic, kYarn };

/// Rotary position embedding: config.json's rope_theta and rope_scaling, or rope_parameters of transformers 5.
struct RopeConfig {
  RopeKind kind = RopeKind::kPlain;
  double theta = 10000.0;
  double factor = 1.0;                           // linear, dynamic, yarn: how many times longer
  int64_t original_max_position_embeddings = 0;  // yarn, dynamic: the length trained at (0 = max_position_embeddings)
  double beta_fast = 32.0;                       // yarn: rotations above which a frequency is left as it is
  double beta_slow = 1.0;                        // yarn: rotations below which a frequency is fully interpolated
  double mscale = 1.0;                           // yarn: weight of ln(factor) in the scale of cos and sin
  double mscale_all_dim = 0.0;                   // the same in the softmax scale (0 = none), of every stretched kind
  bool interleave = true;  // weights rotate neighbouring elements (2i, 2i+1), as in all of DeepSeek's; false = halves

  bool operator==(const RopeConfig&) const = default;
};

/// The shape of a DeepSeek-V2 or V3 model, under the names of Hugging Face's config.json. All sizes are in elements.
struct ModelConfig {
  Architecture architecture = Architecture::kDeepseekV3;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;      // width of the dense layers' MLP
  int64_t moe_intermediate_size = 0;  // width of one expert
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t max_position_embeddings = 0;

  int64_t q_lora_rank = 0;  // 0 = q comes straight from q_proj
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
  bool attention_bias = false;  // biases on q_a_proj, kv_a_proj_with_mqa and o_proj
  RopeConfig rope;

  int64_t n_routed_experts = 0;  // 0 = a dense model
  int64_t n_shared_experts = 0;  // one MLP of n_shared_experts * moe_intermediate_size
  int64_t num_experts_per_tok = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  TopkMethod topk_method = TopkMethod::kGreedy;
  ScoringFunc scoring_func = ScoringFunc::kSoftmax;
  bool norm_topk_prob = false;
  double routed_scaling_factor = 1.0;
  int64_t first_k_dense_replace = 0;
  int64_t moe_layer_freq = 1;
  double aux_loss_alpha = 0.0;  // what the file says; training weighs the loss by training.aux_loss_weight
  bool seq_aux = true;

  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  bool tie_word_embeddings = false;
  int64_t num_nextn_predict_layers = 0;  // next-token-prediction (MTP) modules

  int64_t bos_token_id = -1;  // -1 = none
  std::vector<int64_t> eos_token_ids;
  int64_t pad_token_id = -1;  // -1 = none

  /// Rows and columns of a block with one scale where the file says that its weights are fp8 (quantization_config);
  /// 0 = not quantised. It describes the files a model is read from and is never written.
  int64_t fp8_weight_block_rows = 0;
  int64_t fp8_weight_block_columns = 0;

  /// Fields of config.json that mean nothing here, as a JSON object, kept to be written back.
  std::string other_fields = "{}";

  bool operator==(const ModelConfig&) const = default;

  /// Elements of a query or key head: qk_nope_head_dim + qk_rope_head_dim.
  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }

  /// Whether decoder layer `layer` (0-based) has routed experts rather than a dense MLP. Next-token-prediction modules
  /// stand behind the last layer as layers num_hidden_layers, num_hidden_layers + 1, ...
  bool is_moe_layer(int64_t layer) const {
    return n_routed_experts > 0 && layer >= first_k_dense_replace && layer % moe_layer_freq == 0;
  }

  /// Layers below num_hidden_layers with routed experts.
  int64_t num_moe_layers() const;

  /// The largest position count that rotary angles are defined for without stretching.
  int64_t rope_original_length() const {
    return rope.original_max_position_embeddings > 0 ? rope.original_max_position_embeddings : max_position_embeddings;
  }
};

/// Throws a usage error that begins with `where` (a file's path, or a name) unless the sizes fit each other: positive
/// sizes, experts a token within the experts (of the chosen groups), groups that divide, an even rotary head.
void validate(const ModelConfig& config, std::string_view where);

/// A shape by name (model_shapes.cpp). An unknown name is a usage error that names the nearest.
ModelConfig named_model_config(std::string_view name);

/// The names that named_model_config knows.
std::vector<std::string> model_config_names();

/// "deepseek_v3", "noaux_tc", "sigmoid", "yarn": the words of config.json.
std::string_view name_of(Architecture value);
std::string_view name_of(TopkMethod value);
std::string_view name_of(ScoringFunc value);
std::string_view name_of(RopeKind value);

}  // namespace deeptitan
