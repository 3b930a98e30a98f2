// Conversations of any bytes: a line of a chat file, and the list of --messages. Each is refused with an Error, or
// read.
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "data/chat_line.h"
#include "jinja/template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deeptitan;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    parse_chat_line(text, "messages", "input");
  } catch (const Error&) {
  }
  try {
    jinja::value_from_json(text, "input");
  } catch (const Error&) {
  }
  return 0;
}
