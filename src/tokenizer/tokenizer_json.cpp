#include "tokenizer/tokenizer_json.h"

#include <algorithm>

#include "core/error.h"
#include "core/json_reader.h"
#include "core/shown_text.h"
#include "tokenizer/bpe_model.h"
#include "tokenizer/code_point_set.h"

namespace deeptitan {

const std::string_view kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

using Json = nlohmann::json;

constexpr int kMaxNesting = 16;  // of Sequence in Sequence

// A member of an object that may be absent or null.
const Json* find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

const Json& require(const Json& object, const char* key, std::string_view where) {
  const Json* value = find(object, key);
  DT_CHECK(value != nullptr, "{} has no \"{}\"", where, key);
  return *value;
}

std::string require_string(const Json& object, const char* key, std::string_view where) {
  const Json& value = require(object, key, where);
  DT_CHECK(value.is_string(), "{}.{} must be a string, not {}", where, key, json_kind(value));
  return value.get<std::string>();
}

bool bool_or(const Json& object, const char* key, bool absent, std::string_view where) {
  const Json* value = find(object, key);
  if (value == nullptr) return absent;
  DT_CHECK(value->is_boolean(), "{}.{} must be true or false, not {}", where, key, json_kind(*value));
  return value->get<bool>();
}

const Json& require_array(const Json& object, const char* key, std::string_view where) {
  const Json& value = require(object, key, where);
  DT_CHECK(value.is_array(), "{}.{} must be an array, not {}", where, key, json_kind(value));
  return value;
}

int32_t to_id(const Json& value, std::string_view where) {
  DT_CHECK(value.is_number_integer(), "{} must be a token id, not {}", where, json_kind(value));
  const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() < BpeModel::kMaxIds : false;
  DT_CHECK(fits, "{} = {} is not a token id; ids must be 0 to {}", where, shown_json(value), BpeModel::kMaxIds - 1);
  return value.get<int32_t>();
}

AddedToken read_added_token(const Json& value, int32_t id, std::string_view where) {
  AddedToken token;
  token.content = require_string(value, "content", where);
  token.id = id;
  token.special = bool_or(value, "special", false, where);
  token.single_word = bool_or(value, "single_word", false, where);
  token.lstrip = bool_or(value, "lstrip", false, where);
  token.rstrip = bool_or(value, "rstrip", false, where);
  token.normalized = bool_or(value, "normalized", !token.special, where);
  return token;
}

void read_normalizer(const Json& value, TokenizerDescription& description, int depth) {
  DT_CHECK(depth < kMaxNesting, "normalizer: sequences are nested too deeply");
  const std::string type = require_string(value, "type", "normalizer");
  if (type == "NFC") {
    description.normalize_nfc = true;
  } else if (type == "Sequence") {
    for (const Json& member : require_array(value, "normalizers", "normalizer")) {
      read_normalizer(member, description, depth + 1);
    }
  } else {
    fail("normalizer.type is \"{}\"; supported are NFC and Sequence", type);
  }
}

RegexPattern read_split_pattern(const Json& value) {
  const Json& pattern = require(value, "pattern", "pre_tokenizer Split");
  if (find(pattern, "Regex") != nullptr) return parse_regex(require_string(pattern, "Regex", "pattern"));
  if (find(pattern, "String") != nullptr) return literal_pattern(require_string(pattern, "String", "pattern"));
  fail("pre_tokenizer Split.pattern must hold \"Regex\" or \"String\"");
}

// The pattern whose every match is one numeric character, or a whole run of them.
RegexPattern digits_pattern(bool individual) {
  RegexPattern pattern = parse_regex(individual ? R"(\p{N})" : R"(\p{N}+)");
  pattern.runs->front().items.front().set = unicode_numeric();
  return pattern;
}

void read_pre_tokenizer(const Json& value, TokenizerDescription& description, bool& byte_level, int depth) {
  DT_CHECK(depth < kMaxNesting, "pre_tokenizer: sequences are nested too deeply");
  const std::string type = require_string(value, "type", "pre_tokenizer");
  if (type == "Sequence") {
    for (const Json& member : require_array(value, "pretokenizers", "pre_tokenizer")) {
      read_pre_tokenizer(member, description, byte_level, depth + 1);
    }
    return;
  }
  DT_CHECK(!byte_level, "pre_tokenizer {} comes after ByteLevel; ByteLevel must be the last", type);
  if (type == "Split") {
    const std::string behavior = require_string(value, "behavior", "pre_tokenizer Split");
    const bool invert = bool_or(value, "invert", false, "pre_tokenizer Split");
    DT_CHECK(behavior == "Isolated" || behavior == "Removed",
             "pre_tokenizer Split.behavior is \"{}\"; supported are Isolated and Removed", behavior);
    RegexPattern pattern = read_split_pattern(value);
    if (behavior == "Removed") pattern.kept = invert ? RegexPattern::Kept::kMatches : RegexPattern::Kept::kGaps;
    description.splits.push_back(std::move(pattern));
  } else if (type == "Digits") {
    description.splits.push_back(digits_pattern(bool_or(value, "individual_digits", false, "pre_tokenizer Digits")));
  } else if (type == "ByteLevel") {
    DT_CHECK(!bool_or(value, "add_prefix_space", true, "pre_tokenizer ByteLevel"),
             "pre_tokenizer ByteLevel.add_prefix_space is true; supported is false");
    if (bool_or(value, "use_regex", true, "pre_tokenizer ByteLevel")) {
      description.splits.push_back(parse_regex(kGpt2Pattern));
    }
    byte_level = true;
  } else {
    fail("pre_tokenizer.type is \"{}\"; supported are Split, Digits, ByteLevel and Sequence", type);
  }
}

std::vector<int32_t> special_token_ids(const Json& processor, const std::string& name) {
  const Json& tokens = require(processor, "special_tokens", "post_processor TemplateProcessing");
  const Json& token = require(tokens, name.c_str(), "post_processor TemplateProcessing.special_tokens");
  std::vector<int32_t> ids;
  for (const Json& id : require_array(token, "ids", "post_processor special token")) {
    ids.push_back(to_id(id, "post_processor special token id"));
  }
  return ids;
}

void read_template(const Json& value, TokenizerDescription& description) {
  std::vector<int32_t> before, after;
  int sequences = 0;
  for (const Json& part : require_array(value, "single", "post_processor TemplateProcessing")) {
    if (const Json* special = find(part, "SpecialToken")) {
      const std::vector<int32_t> ids = special_token_ids(value, require_string(*special, "id", "SpecialToken"));
      std::vector<int32_t>& side = sequences == 0 ? before : after;
      side.insert(side.end(), ids.begin(), ids.end());
    } else if (const Json* sequence = find(part, "Sequence")) {
      const std::string id = require_string(*sequence, "id", "Sequence");
      DT_CHECK(id == "A", "post_processor TemplateProcessing.single names the sequence \"{}\"; supported is A", id);
      ++sequences;
    } else {
      fail("post_processor TemplateProcessing.single holds {}; supported are SpecialToken and Sequence",
           shown_json(part));
    }
  }
  DT_CHECK(sequences == 1, "post_processor TemplateProcessing.single must name the text exactly once, not {} times",
           sequences);
  description.prefix_ids.insert(description.prefix_ids.begin(), before.begin(), before.end());
  description.suffix_ids.insert(description.suffix_ids.end(), after.begin(), after.end());
}

void read_post_processor(const Json& value, TokenizerDescription& description, int depth) {
  DT_CHECK(depth < kMaxNesting, "post_processor: sequences are nested too deeply");
  const std::string type = require_string(value, "type", "post_processor");
  if (type == "TemplateProcessing") {
    read_template(value, description);
  } else if (type == "Sequence") {
    for (const Json& member : require_array(value, "processors", "post_processor")) {
      read_post_processor(member, description, depth + 1);
    }
  } else {
    // ByteLevel changes nothing but character offsets.
    DT_CHECK(type == "ByteLevel",
             "post_processor.type is \"{}\"; supported are ByteLevel, TemplateProcessing and Sequence", type);
  }
}

std::pair<std::string, std::string> read_merge(const Json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  }
  fail("model.merges holds {}; a merge must be \"LEFT RIGHT\" or [\"LEFT\", \"RIGHT\"]", shown_json(merge));
}

void read_model(const Json& model, TokenizerDescription& description) {
  const Json* type = find(model, "type");
  DT_CHECK(type == nullptr || *type == "BPE", "model.type is {}; supported is \"BPE\"", shown_json(*type));
  for (const char* option : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json* value = find(model, option);
    const bool is_empty_string = value != nullptr && value->is_string() && value->get_ref<const std::string&>().empty();
    const bool off = value == nullptr || is_empty_string || *value == 0.0;
    DT_CHECK(off, "model.{} is {}; supported is null", option, shown_json(*value));
  }
  DT_CHECK(!bool_or(model, "byte_fallback", false, "model"),
           "model.byte_fallback is true; supported are byte-level vocabularies, which have it false");
  description.ignore_merges = bool_or(model, "ignore_merges", false, "model");
  if (find(model, "unk_token") != nullptr) description.unknown_token = require_string(model, "unk_token", "model");

  const Json& vocabulary = require(model, "vocab", "model");
  DT_CHECK(vocabulary.is_object(), "model.vocab must be an object of tokens and ids, not {}", json_kind(vocabulary));
  description.vocabulary.reserve(vocabulary.size());
  for (const auto& [token, id] : vocabulary.items()) {
    description.vocabulary.emplace_back(token, to_id(id, "model.vocab"));
  }
  const Json& merges = require_array(model, "merges", "model");
  description.merges.reserve(merges.size());
  for (const Json& merge : merges) description.merges.push_back(read_merge(merge));
}

std::optional<std::string> read_named_token(const Json& config, const char* key) {
  const Json* value = find(config, key);
  if (value == nullptr) return std::nullopt;
  if (value->is_object()) return require_string(*value, "content", key);
  DT_CHECK(value->is_string(), "{} must be a string or an object with \"content\", not {}", key, json_kind(*value));
  return value->get<std::string>();
}

std::optional<bool> read_flag(const Json& config, const char* key) {
  if (!config.contains(key)) return std::nullopt;
  return bool_or(config, key, false, "tokenizer_config.json");
}

}  // namespace

TokenizerDescription parse_tokenizer_json(std::string_view text) {
  const Json json = read_json<Json>(text, {.where = "tokenizer.json"});
  DT_CHECK(json.is_object(), "tokenizer.json must hold an object, not {}", json_kind(json));
  TokenizerDescription description;
  // "truncation" and "padding" are left over from whoever saved the file: they are options of a call, as in
  // transformers.
  if (const Json* tokens = find(json, "added_tokens")) {
    DT_CHECK(tokens->is_array(), "added_tokens must be an array, not {}", json_kind(*tokens));
    for (const Json& token : *tokens) {
      const int32_t id = to_id(require(token, "id", "added_tokens"), "added_tokens.id");
      description.added_tokens.push_back(read_added_token(token, id, "added_tokens"));
    }
  }
  if (const Json* normalizer = find(json, "normalizer")) read_normalizer(*normalizer, description, 0);
  bool byte_level = false;
  if (const Json* pre_tokenizer = find(json, "pre_tokenizer")) {
    read_pre_tokenizer(*pre_tokenizer, description, byte_level, 0);
  }
  DT_CHECK(byte_level, "pre_tokenizer has no ByteLevel; supported are byte-level vocabularies only");
  if (const Json* post_processor = find(json, "post_processor")) {
    description.has_post_processor = true;
    read_post_processor(*post_processor, description, 0);
  }
  const std::string decoder = require_string(require(json, "decoder", "tokenizer.json"), "type", "decoder");
  DT_CHECK(decoder == "ByteLevel", "decoder.type is \"{}\"; supported is ByteLevel", decoder);
  read_model(require(json, "model", "tokenizer.json"), description);
  return description;
}

TokenizerConfigDescription parse_tokenizer_config(std::string_view text) {
  const Json json = read_json<Json>(text, {.where = "tokenizer_config.json"});
  DT_CHECK(json.is_object(), "tokenizer_config.json must hold an object, not {}", json_kind(json));
  TokenizerConfigDescription description;
  description.bos_token = read_named_token(json, "bos_token");
  description.eos_token = read_named_token(json, "eos_token");
  description.pad_token = read_named_token(json, "pad_token");
  if (find(json, "tokenizer_class") != nullptr) {
    description.tokenizer_class = require_string(json, "tokenizer_class", "tokenizer_config.json");
  }
  description.add_bos_token = read_flag(json, "add_bos_token");
  description.add_eos_token = read_flag(json, "add_eos_token");
  if (const Json* tokens = find(json, "added_tokens_decoder")) {
    DT_CHECK(tokens->is_object(), "added_tokens_decoder must be an object, not {}", json_kind(*tokens));
    for (const auto& [key, token] : tokens->items()) {
      const Json id = try_read_json(key).value_or(Json());
      description.added_tokens.push_back(
          read_added_token(token, to_id(id, "a key of added_tokens_decoder"), "added_tokens_decoder"));
    }
  }
  return description;
}

}  // namespace deeptitan
