#include <nlohmann/json.hpp>

#include "core/error.h"
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
  try {
    DataPosition position;
    for (const nlohmann::json& element : nlohmann::json::parse(text)) {
      position.sources.push_back({element.at("name"), element.at("fingerprint"), element.at("epoch"),
                                  element.at("index"), element.at("drawn")});
    }
    return position;
  } catch (const nlohmann::json::exception& error) {
    fail("{}: not a position in the data: {}", where, error.what());
  }
}

}  // namespace deeptitan
