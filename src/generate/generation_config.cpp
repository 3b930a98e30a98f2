#include "generate/generation_config.h"

#include <algorithm>
#include <set>
#include <string>

#include "core/error.h"
#include "core/file.h"
#include "core/json_reader.h"

namespace deeptitan {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxBytes = size_t{16} << 20;

/// A number that `fits` says is one; where it is absent or null, `value` stays.
template <typename Fits>
void read_number(const Json& json, const char* field, std::string_view where, const char* expected, const Fits& fits,
                 double& value) {
  const auto found = json.find(field);
  if (found == json.end() || found->is_null()) return;
  DT_CHECK(found->is_number() && fits(found->get<double>()), "{}: {} = {}; expected {}", where, field,
           shown_json(*found), expected);
  value = found->get<double>();
}

/// transformers takes 0 and null for "all", and refuses a negative number.
void read_top_k(const Json& json, std::string_view where, int64_t& top_k) {
  const auto found = json.find("top_k");
  if (found == json.end()) return;
  if (found->is_null()) {
    top_k = 0;
    return;
  }
  const bool fits = found->is_number_unsigned() && found->get<uint64_t>() <= INT64_MAX;
  DT_CHECK(fits, "{}: top_k = {}; expected a whole number from 1 up, or 0 or null for all tokens", where,
           shown_json(*found));
  top_k = found->get<int64_t>();
}

void read_end_ids(const Json& json, std::string_view where, int64_t vocab_size, std::set<int32_t>& ids) {
  const auto found = json.find("eos_token_id");
  if (found == json.end() || found->is_null()) return;
  const Json list = found->is_array() ? *found : Json::array({*found});
  for (const Json& id : list) {
    DT_CHECK(id.is_number_unsigned() && id.get<uint64_t>() < static_cast<uint64_t>(vocab_size),
             "{}: eos_token_id = {}; expected a token id from 0 to vocab_size - 1 = {}, or a list of them", where,
             shown_json(*found), vocab_size - 1);
    ids.insert(id.get<int32_t>());
  }
}

void read_sampling(const Json& json, std::string_view where, SamplingOptions& sampling) {
  const auto do_sample = json.find("do_sample");
  if (do_sample == json.end() || do_sample->is_null()) return;
  DT_CHECK(do_sample->is_boolean(), "{}: do_sample = {}; expected true or false", where, shown_json(*do_sample));
  if (!do_sample->get<bool>()) return;
  const auto at_least_0 = [](double value) { return value >= 0; };
  const auto share = [](double value) { return value >= 0 && value <= 1; };
  read_number(json, "temperature", where, "a number of at least 0", at_least_0, sampling.temperature);
  read_top_k(json, where, sampling.top_k);
  read_number(
      json, "top_p", where, "a number above 0 and up to 1", [](double value) { return value > 0 && value <= 1; },
      sampling.top_p);
  read_number(json, "min_p", where, "a number from 0 to 1", share, sampling.min_p);
  read_number(
      json, "repetition_penalty", where, "a number greater than 0", [](double value) { return value > 0; },
      sampling.repetition_penalty);
}

}  // namespace

GenerationConfig parse_generation_config(std::string_view text, std::string_view where, int64_t vocab_size) {
  const Json json = read_json<Json>(text, {.where = where});
  DT_CHECK(json.is_object(), "{}: expected a JSON object, found {}", where, json_kind(json));
  GenerationConfig result;
  std::set<int32_t> ids;
  read_end_ids(json, where, vocab_size, ids);
  result.end_ids.assign(ids.begin(), ids.end());
  read_sampling(json, where, result.sampling);
  result.names_temperature =
      json.value("do_sample", Json(false)) == true && json.contains("temperature") && !json.at("temperature").is_null();
  return result;
}

GenerationConfig load_generation_config(const std::filesystem::path& directory, const ModelConfig& config,
                                        const Tokenizer& tokenizer) {
  GenerationConfig result;
  std::set<int32_t> ids;
  for (const int64_t id : config.eos_token_ids) ids.insert(static_cast<int32_t>(id));
  if (tokenizer.eos_token_id()) ids.insert(*tokenizer.eos_token_id());
  const std::filesystem::path path = directory / "generation_config.json";
  if (std::filesystem::exists(path)) {
    result = parse_generation_config(read_file(path, kMaxBytes), path.string(), config.vocab_size);
    ids.insert(result.end_ids.begin(), result.end_ids.end());
  }
  result.end_ids.assign(ids.begin(), ids.end());
  return result;
}

}  // namespace deeptitan
