#include "config/model_config_json.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "config/nearest_name.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json_reader.h"
#include "core/shown_text.h"

namespace deeptitan {

namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;

/// Calls visit(name, member) for each field that config.json holds as a plain number or truth value.
template <typename Config, typename Visitor>
void visit_plain_fields(Config& c, Visitor&& visit) {
  visit("vocab_size", c.vocab_size);
  visit("hidden_size", c.hidden_size);
  visit("intermediate_size", c.intermediate_size);
  visit("moe_intermediate_size", c.moe_intermediate_size);
  visit("num_hidden_layers", c.num_hidden_layers);
  visit("num_attention_heads", c.num_attention_heads);
  visit("max_position_embeddings", c.max_position_embeddings);
  visit("q_lora_rank", c.q_lora_rank);
  visit("kv_lora_rank", c.kv_lora_rank);
  visit("qk_nope_head_dim", c.qk_nope_head_dim);
  visit("qk_rope_head_dim", c.qk_rope_head_dim);
  visit("v_head_dim", c.v_head_dim);
  visit("attention_bias", c.attention_bias);
  visit("n_routed_experts", c.n_routed_experts);
  visit("n_shared_experts", c.n_shared_experts);
  visit("num_experts_per_tok", c.num_experts_per_tok);
  visit("n_group", c.n_group);
  visit("topk_group", c.topk_group);
  visit("norm_topk_prob", c.norm_topk_prob);
  visit("routed_scaling_factor", c.routed_scaling_factor);
  visit("first_k_dense_replace", c.first_k_dense_replace);
  visit("moe_layer_freq", c.moe_layer_freq);
  visit("aux_loss_alpha", c.aux_loss_alpha);
  visit("seq_aux", c.seq_aux);
  visit("rms_norm_eps", c.rms_norm_eps);
  visit("initializer_range", c.initializer_range);
  visit("tie_word_embeddings", c.tie_word_embeddings);
  visit("num_nextn_predict_layers", c.num_nextn_predict_layers);
}

/// Sizes without which a file describes no model; every other field has a default.
constexpr std::string_view kRequired[] = {
    "vocab_size",   "hidden_size",      "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
    "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",  "v_head_dim",          "q_lora_rank"};

/// Fields read or written here besides the plain ones.
constexpr std::string_view kOtherKnown[] = {
    "architectures",     "model_type",          "topk_method",  "scoring_func", "rope_theta",   "rope_scaling",
    "rope_parameters",   "rope_interleave",     "bos_token_id", "eos_token_id", "pad_token_id", "hidden_act",
    "attention_dropout", "num_key_value_heads", "torch_dtype",  "dtype",        "mlp_bias",     "head_dim",
    "qk_head_dim",       "quantization_config", "use_cache"};

/// Whether a whole number is one of 64 bits with a sign.
bool fits_int64(const Json& number) {
  return !number.is_number_unsigned() || number.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
}

class FieldReader {
 public:
  FieldReader(const Json& object, std::string_view where, std::string prefix = "")
      : object_(object), where_(where), prefix_(std::move(prefix)) {}

  /// The field, or null where it is absent or null.
  const Json* find(std::string_view name) const {
    const auto it = object_.find(name);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  void read(std::string_view name, int64_t& value) const {
    if (const Json* field = find(name)) {
      const bool fits = field->is_number_integer() && fits_int64(*field);
      if (!fits) wrong(name, *field, "a whole number");
      value = field->get<int64_t>();
    }
  }
  void read(std::string_view name, double& value) const {
    if (const Json* field = find(name)) {
      if (!field->is_number()) wrong(name, *field, "a number");
      value = field->get<double>();
    }
  }
  void read(std::string_view name, bool& value) const {
    if (const Json* field = find(name)) {
      if (!field->is_boolean()) wrong(name, *field, "true or false");
      value = field->get<bool>();
    }
  }

  /// A word that names one of `choices`.
  template <typename Enum>
  void read(std::string_view name, Enum& value, std::initializer_list<Enum> choices) const {
    const Json* field = find(name);
    if (field == nullptr) return;
    std::vector<std::string> names;
    for (const Enum choice : choices) {
      if (*field == name_of(choice)) {
        value = choice;
        return;
      }
      names.emplace_back(name_of(choice));
    }
    const std::string near = field->is_string() ? did_you_mean(field->get<std::string>(), names) : "";
    wrong(name, *field, fmt::format("one of {}", fmt::join(names, ", ")), near);
  }

  [[noreturn]] void wrong(std::string_view name, const Json& field, std::string_view expected,
                          std::string_view hint = "") const {
    fail_usage("{}: {}{} = {}; expected {}{}", where_, prefix_, name, shown_json(field), expected, hint);
  }

 private:
  const Json& object_;
  std::string_view where_;
  std::string prefix_;
};

void read_rope(const Json& root, std::string_view where, ModelConfig* config) {
  const FieldReader top(root, where);
  RopeConfig rope;
  top.read("rope_theta", rope.theta);
  top.read("rope_interleave", rope.interleave);
  const std::string_view section = top.find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
  if (const Json* scaling = top.find(section)) {
    if (!scaling->is_object()) top.wrong(section, *scaling, "an object, or null");
    const FieldReader reader(*scaling, where, fmt::format("{}.", section));
    static const std::vector<std::string> known = {
        "type",      "rope_type", "rope_theta", "factor",        "original_max_position_embeddings",
        "beta_fast", "beta_slow", "mscale",     "mscale_all_dim"};
    for (const auto& [name, value] : scaling->items()) {
      if (value.is_null() || std::find(known.begin(), known.end(), name) != known.end()) continue;
      fail_usage("{}: {}.{} is not supported{} (supported: {})", where, section, shown(name), did_you_mean(name, known),
                 fmt::join(known, ", "));
    }
    const std::string_view type = reader.find("rope_type") != nullptr ? "rope_type" : "type";
    if (reader.find(type) == nullptr) fail_usage("{}: {} has no rope_type", where, section);
    reader.read(type, rope.kind, {RopeKind::kPlain, RopeKind::kLinear, RopeKind::kDynamic, RopeKind::kYarn});
    reader.read("rope_theta", rope.theta);
    reader.read("factor", rope.factor);
    reader.read("original_max_position_embeddings", rope.original_max_position_embeddings);
    reader.read("beta_fast", rope.beta_fast);
    reader.read("beta_slow", rope.beta_slow);
    reader.read("mscale", rope.mscale);
    reader.read("mscale_all_dim", rope.mscale_all_dim);
    const bool stretched = rope.kind != RopeKind::kPlain;
    DT_CHECK_USAGE(!stretched || reader.find("factor") != nullptr, "{}: {} of type '{}' has no factor", where, section,
                   name_of(rope.kind));
  }
  config->rope = rope;
}

Json write_rope_scaling(const RopeConfig& rope) {
  if (rope.kind == RopeKind::kPlain) return nullptr;
  Json scaling = {{"type", name_of(rope.kind)}, {"rope_type", name_of(rope.kind)}, {"factor", rope.factor}};
  if (rope.original_max_position_embeddings > 0) {
    scaling["original_max_position_embeddings"] = rope.original_max_position_embeddings;
  }
  if (rope.kind == RopeKind::kYarn) {
    scaling["beta_fast"] = rope.beta_fast;
    scaling["beta_slow"] = rope.beta_slow;
    scaling["mscale"] = rope.mscale;
  }
  if (rope.kind == RopeKind::kYarn || rope.mscale_all_dim != 0.0) scaling["mscale_all_dim"] = rope.mscale_all_dim;
  return scaling;
}

std::string token_id_words(int64_t vocab_size) {
  return fmt::format("a token id from 0 to vocab_size - 1 = {}", vocab_size - 1);
}

void read_token_ids(const FieldReader& reader, ModelConfig* config) {
  if (config->vocab_size < 1) return;  // which validate() names
  // Files of older versions write -1 for "none".
  const std::pair<const char*, int64_t*> single[] = {{"bos_token_id", &config->bos_token_id},
                                                     {"pad_token_id", &config->pad_token_id}};
  for (const auto& [name, id] : single) {
    reader.read(name, *id);
    if (*id < -1 || *id >= config->vocab_size) {
      reader.wrong(name, *reader.find(name), token_id_words(config->vocab_size) + ", or null");
    }
  }
  const Json* eos = reader.find("eos_token_id");
  if (eos == nullptr) return;
  config->eos_token_ids.clear();
  const Json list = eos->is_array() ? *eos : Json::array({*eos});
  for (const Json& id : list) {
    const bool fits =
        id.is_number_integer() && fits_int64(id) && id.get<int64_t>() >= 0 && id.get<int64_t>() < config->vocab_size;
    if (!fits) reader.wrong("eos_token_id", *eos, token_id_words(config->vocab_size) + ", or a list of them");
    config->eos_token_ids.push_back(id.get<int64_t>());
  }
}

/// Fields that name something this program does one way only.
void check_fixed_fields(const FieldReader& reader, const ModelConfig& config) {
  if (const Json* act = reader.find("hidden_act"); act != nullptr && *act != "silu") {
    reader.wrong("hidden_act", *act, "\"silu\", the only activation of these models");
  }
  if (const Json* bias = reader.find("mlp_bias"); bias != nullptr && *bias != false) {
    reader.wrong("mlp_bias", *bias, "false: an MLP with biases is not supported");
  }
  if (const Json* dropout = reader.find("attention_dropout"); dropout != nullptr && *dropout != 0) {
    reader.wrong("attention_dropout", *dropout, "0: dropout is not supported");
  }
  int64_t heads = config.num_attention_heads;
  reader.read("num_key_value_heads", heads);
  if (heads != config.num_attention_heads) {
    reader.wrong(
        "num_key_value_heads", heads,
        fmt::format("num_attention_heads = {}: latent attention has a key for each head", config.num_attention_heads));
  }
}

void read_quantization(const Json& root, std::string_view where, ModelConfig* config) {
  const Json* section = FieldReader(root, where).find("quantization_config");
  if (section == nullptr) return;
  if (!section->is_object()) FieldReader(root, where).wrong("quantization_config", *section, "an object");
  const FieldReader reader(*section, where, "quantization_config.");
  const Json* method = reader.find("quant_method");
  const Json* block = reader.find("weight_block_size");
  if (method == nullptr || *method != "fp8") {
    reader.wrong(
        "quant_method", method == nullptr ? Json() : *method,
        "\"fp8\": weights can be read in fp32, bf16, fp16, fp64 and fp8 (e4m3 with weight_scale_inv); fetch the "
        "model in one of these, or dequantize it");
  }
  if (block == nullptr || !block->is_array() || block->size() != 2 || !block->at(0).is_number_unsigned() ||
      !block->at(1).is_number_unsigned() || block->at(0) == 0 || block->at(1) == 0) {
    reader.wrong("weight_block_size", block == nullptr ? Json() : *block, "two sizes, such as [128, 128]");
  }
  config->fp8_weight_block_rows = block->at(0).get<int64_t>();
  config->fp8_weight_block_columns = block->at(1).get<int64_t>();
}

/// Names of the two graphs in config.json. The nearest of them is not suggested for another: deepseek_v32 is no slip
/// for deepseek_v2 but a model with another attention.
constexpr std::pair<std::string_view, Architecture> kModelTypes[] = {{"deepseek_v2", Architecture::kDeepseekV2},
                                                                     {"deepseek_v3", Architecture::kDeepseekV3},
                                                                     {"kimi_k2", Architecture::kDeepseekV3}};

Architecture read_architecture(const Json& root, std::string_view where) {
  const FieldReader reader(root, where);
  const Json* field = reader.find("model_type");
  if (field == nullptr) fail_usage("{}: model_type is missing", where);
  std::vector<std::string_view> names;
  for (const auto& [name, architecture] : kModelTypes) {
    if (*field == name) return architecture;
    names.push_back(name);
  }
  reader.wrong("model_type", *field, fmt::format("one of {}", fmt::join(names, ", ")));
}

ModelConfig from_object(const Json& root, std::string_view where) {
  DT_CHECK_USAGE(root.is_object(), "{}: expected a JSON object, found {}", where, json_kind(root));
  ModelConfig config;
  config.architecture = read_architecture(root, where);
  for (const std::string_view name : kRequired) {
    DT_CHECK_USAGE(root.contains(name), "{}: {} is missing", where, name);
  }
  if (config.architecture == Architecture::kDeepseekV3) {
    config.topk_method = TopkMethod::kNoauxTc;
    config.scoring_func = ScoringFunc::kSigmoid;
    config.norm_topk_prob = true;
  }
  const FieldReader reader(root, where);
  visit_plain_fields(config, [&](const char* name, auto& value) { reader.read(name, value); });
  reader.read("topk_method", config.topk_method,
              {TopkMethod::kGreedy, TopkMethod::kGroupLimitedGreedy, TopkMethod::kNoauxTc});
  reader.read("scoring_func", config.scoring_func, {ScoringFunc::kSoftmax, ScoringFunc::kSigmoid});
  read_rope(root, where, &config);
  read_token_ids(reader, &config);
  read_quantization(root, where, &config);
  check_fixed_fields(reader, config);

  Json others = root;
  visit_plain_fields(config, [&](const char* name, const auto&) { others.erase(name); });
  for (const std::string_view name : kOtherKnown) others.erase(std::string(name));
  config.other_fields = write_json(others);
  validate(config, where);
  return config;
}

Json to_object(const ModelConfig& config) {
  const bool v3 = config.architecture == Architecture::kDeepseekV3;
  Json root = {{"architectures", {v3 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM"}},
               {"model_type", name_of(config.architecture)}};
  visit_plain_fields(config, [&](const char* name, const auto& value) { root[name] = value; });
  if (config.q_lora_rank == 0) root["q_lora_rank"] = nullptr;
  // transformers knows a dense model by its number of dense layers.
  if (config.n_routed_experts == 0) root["first_k_dense_replace"] = config.num_hidden_layers;
  root["topk_method"] = name_of(config.topk_method);
  root["scoring_func"] = name_of(config.scoring_func);
  root["rope_theta"] = config.rope.theta;
  root["rope_scaling"] = write_rope_scaling(config.rope);
  root["rope_interleave"] = config.rope.interleave;
  const auto id_or_null = [](int64_t id) { return id < 0 ? Json() : Json(id); };
  root["bos_token_id"] = id_or_null(config.bos_token_id);
  root["pad_token_id"] = id_or_null(config.pad_token_id);
  root["eos_token_id"] = config.eos_token_ids.size() == 1 ? Json(config.eos_token_ids[0]) : Json(config.eos_token_ids);
  if (config.eos_token_ids.empty()) root["eos_token_id"] = nullptr;
  root["num_key_value_heads"] = config.num_attention_heads;
  root["hidden_act"] = "silu";
  root["attention_dropout"] = 0.0;
  root["use_cache"] = true;
  return root;
}

Json parse_json(std::string_view text, std::string_view where) {
  return read_json<Json>(text, {.where = where, .kind = ErrorKind::kUsage});
}

}  // namespace

ModelConfig parse_model_config(std::string_view json_text, std::string_view where) {
  return from_object(parse_json(json_text, where), where);
}

ModelConfig load_model_config(const std::filesystem::path& path) {
  std::error_code error;
  DT_CHECK_USAGE(!path.empty(), "the model's name is empty; expected a directory with a Hugging Face config.json");
  const std::filesystem::path file = std::filesystem::is_directory(path, error) ? path / "config.json" : path;
  if (!std::filesystem::exists(file, error)) {
    std::string more;
    if (error && error != std::errc::no_such_file_or_directory) more = "; " + error.message();
    const std::filesystem::path of_run = path / "model";
    if (std::filesystem::exists(of_run / "config.json", error)) {
      more = fmt::format("; the run's model is {}", of_run.lexically_normal().string());
    }
    fail_usage("cannot read {}: expected a Hugging Face config.json, or a directory that holds one{}", file.string(),
               more);
  }
  DT_CHECK_USAGE(!file.native().ends_with(".safetensors"),
                 "{} holds weights; expected the model's directory, or its config.json", file.string());
  for (const std::string_view ending : {".gguf", ".ggml", ".bin", ".pt", ".pth", ".ckpt", ".onnx"}) {
    DT_CHECK_USAGE(!file.native().ends_with(ending),
                   "{} is a file of weights in a form that is not read; expected a Hugging Face directory with "
                   "config.json and safetensors, such as deeptitan download fetches",
                   file.string());
  }
  return parse_model_config(read_file(file, kMaxConfigBytes), file.string());
}

std::string to_json(const ModelConfig& config, std::string_view torch_dtype) {
  Json root = to_object(config);
  root["torch_dtype"] = torch_dtype;
  const Json others = parse_json(config.other_fields, "the other fields of config.json");
  for (const auto& [name, value] : others.items()) root[name] = value;
  return write_json(root, 2) + "\n";
}

ModelConfig with_overrides(const ModelConfig& config, std::string_view overrides, std::string_view where) {
  const Json changes = parse_json(overrides, where);
  DT_CHECK_USAGE(changes.is_object(), "{}: expected fields of config.json, found {}", where, json_kind(changes));
  Json root = to_object(config);
  std::vector<std::string> known;
  for (const auto& [name, value] : root.items()) known.push_back(name);
  for (const auto& [name, value] : changes.items()) {
    DT_CHECK_USAGE(root.contains(name), "{}: unknown field '{}' of a model{}", where, shown(name),
                   did_you_mean(name, known));
    if (root[name].is_object() && value.is_object()) {
      root[name].update(value);
    } else {
      root[name] = value;
    }
    if (name == "num_attention_heads") root["num_key_value_heads"] = value;
    if (name == "n_routed_experts" && config.n_routed_experts == 0 && !changes.contains("first_k_dense_replace")) {
      root["first_k_dense_replace"] = config.first_k_dense_replace;
    }
  }
  // A smaller vocabulary of one's own has no place for the tokens of the shape's.
  const bool resized = changes.contains("vocab_size") && root["vocab_size"].is_number_integer();
  for (const char* name : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    const Json list = root[name].is_array() ? root[name] : Json::array({root[name]});
    const bool outside = std::any_of(
        list.begin(), list.end(), [&](const Json& id) { return id.is_number_integer() && id >= root["vocab_size"]; });
    if (resized && outside && !changes.contains(name)) root[name] = nullptr;
  }
  ModelConfig result = from_object(root, where);
  result.other_fields = config.other_fields;
  result.fp8_weight_block_rows = config.fp8_weight_block_rows;
  result.fp8_weight_block_columns = config.fp8_weight_block_columns;
  return result;
}

}  // namespace deeptitan
