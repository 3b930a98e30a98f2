#include <cstdlib>

#include "core/error.h"
#include "core/json_reader.h"
#include "core/shown_text.h"
#include "jinja/template.h"

namespace deeptitan::jinja {
namespace {

using Json = nlohmann::ordered_json;

Value value_of(const Json& json, std::string_view source, const std::string& path) {
  switch (json.type()) {
    case Json::value_t::null:
      return {};
    case Json::value_t::boolean:
      return json.get<bool>();
    case Json::value_t::number_integer:
      return json.get<int64_t>();
    case Json::value_t::number_unsigned: {
      const auto value = json.get<uint64_t>();
      DT_CHECK(value <= static_cast<uint64_t>(INT64_MAX), "{}: {} does not fit 64 bits with a sign", source, value);
      return static_cast<int64_t>(value);
    }
    case Json::value_t::number_float:
      return json.get<double>();
    case Json::value_t::string:
      return json.get<std::string>();
    case Json::value_t::array: {
      std::vector<Value> items;
      for (const Json& item : json) items.push_back(value_of(item, source, fmt::format("{}[{}]", path, items.size())));
      return Value::list(std::move(items));
    }
    case Json::value_t::object: {
      Dict dict;
      for (const auto& [key, member] : json.items()) {
        dict.set(Value(key), value_of(member, source, path.empty() ? key : fmt::format("{}.{}", path, key)));
      }
      return Value::dict(std::move(dict));
    }
    default: {
      // NaN, Infinity and 1e999 are numbers to Python; half a surrogate pair is no text.
      const auto& spelled = json.get_binary();
      if (spelled.front() != '"') return std::strtod(std::string(spelled.begin(), spelled.end()).c_str(), nullptr);
      fail("{}: {}{}{}; a template cannot be given that", source, shown(path), path.empty() ? "" : " is ",
           json_kind(json));
    }
  }
}

}  // namespace

Value value_from_json(std::string_view json, std::string_view source) {
  return value_of(read_json<Json>(json, {.where = source}), source, "");
}

}  // namespace deeptitan::jinja
