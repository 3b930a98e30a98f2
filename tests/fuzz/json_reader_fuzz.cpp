// The JSON reader on any bytes: it refuses them with an Error, or what it read is written and read again the same.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/json_reader.h"

template <typename Json>
void check(std::string_view text) {
  using namespace deeptitan;
  Json value;
  try {
    value = read_json<Json>(text, {.where = "input"});
  } catch (const Error&) {
    return;
  }
  const std::string written = write_json(value);
  if (write_json(read_json<Json>(written, {.where = "again"})) != written) std::abort();
  if (shown_json(value, 100).size() > 700) std::abort();  // an escape is at most six bytes for one
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check<nlohmann::json>(text);
  check<nlohmann::ordered_json>(text);
  return 0;
}
