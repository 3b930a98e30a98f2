#include "core/error.h"
#include "core/json_reader.h"
#include "data/batch_source.h"

namespace deeptitan {

std::string DataPosition::to_json() const {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Source& source : sources) {
    list.push_back({{"name", source.name},
                    {"fingerprint", source.fingerprint},
                    {"epoch", source.epoch},
                    {"index", source.index},
                    {"drawn", source.drawn}});
  }
  return list.dump();
}

DataPosition DataPosition::from_json(std::string_view text, std::string_view where) {
  const nlohmann::json list = read_json(text, {.where = where, .advice = "expected a position in the data"});
  DT_CHECK(list.is_array(), "{}: a position in the data must be a list of sources, found {}", where, json_kind(list));
  const auto field = [&](const nlohmann::json& source, const char* key, bool is_text) -> const nlohmann::json& {
    const auto found = source.is_object() ? source.find(key) : source.end();
    const bool there =
        source.is_object() && found != source.end() &&
        (is_text ? found->is_string() : found->is_number_unsigned() && found->get<uint64_t>() <= INT64_MAX);
    DT_CHECK(there, "{}: a source of the position in the data needs a {} as {}, found {}", where, key,
             is_text ? "text" : "whole number", shown_json(source));
    return *found;
  };
  DataPosition position;
  for (const nlohmann::json& source : list) {
    position.sources.push_back(
        {field(source, "name", true).get<std::string>(), field(source, "fingerprint", true).get<std::string>(),
         field(source, "epoch", false).get<int64_t>(), field(source, "index", false).get<int64_t>(),
         field(source, "drawn", false).get<int64_t>()});
  }
  return position;
}

}  // namespace deeptitan
