#include "generate/generation_config.h"

#include <algorithm>
#include <set>
#include <string>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"

namespace deeptitan {
namespace {

using Json = nlohmann::json;

template <typename T>
void read_number(const Json& json, const char* field, const std::string& where, T& value) {
  const auto found = json.find(field);
  if (found == json.end() || found->is_null()) return;
  DT_CHECK(found->is_number(), "{}: {} is not a number", where, field);
  value = found->get<T>();
}

void read_end_ids(const Json& json, const std::string& where, std::set<int32_t>& ids) {
  const auto found = json.find("eos_token_id");
  if (found == json.end() || found->is_null()) return;
  const Json list = found->is_array() ? *found : Json::array({*found});
  for (const Json& id : list) {
    DT_CHECK(id.is_number_integer(), "{}: eos_token_id is neither a token id nor a list of them", where);
    ids.insert(id.get<int32_t>());
  }
}

}  // namespace

GenerationConfig load_generation_config(const std::filesystem::path& directory, const ModelConfig& config,
                                        const Tokenizer& tokenizer) {
  GenerationConfig result;
  std::set<int32_t> ids;
  for (const int64_t id : config.eos_token_ids) ids.insert(static_cast<int32_t>(id));
  if (tokenizer.eos_token_id()) ids.insert(*tokenizer.eos_token_id());
  const std::filesystem::path path = directory / "generation_config.json";
  if (std::filesystem::exists(path)) {
    const std::string where = path.string();
    const Json json = Json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
    DT_CHECK(json.is_object(), "{}: expected a JSON object", where);
    read_end_ids(json, where, ids);
    const auto do_sample = json.find("do_sample");
    if (do_sample != json.end() && do_sample->is_boolean() && do_sample->get<bool>()) {
      read_number(json, "temperature", where, result.sampling.temperature);
      result.names_temperature = json.contains("temperature") && !json["temperature"].is_null();
      read_number(json, "top_k", where, result.sampling.top_k);
      read_number(json, "top_p", where, result.sampling.top_p);
      read_number(json, "min_p", where, result.sampling.min_p);
      read_number(json, "repetition_penalty", where, result.sampling.repetition_penalty);
    }
  }
  result.end_ids.assign(ids.begin(), ids.end());
  return result;
}

}  // namespace deeptitan
