// A run file of any bytes: it is refused with an Error, or its echo is the same run.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "config/run_config_toml.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deeptitan;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const std::string echo = to_toml(parse_run_config(text, "input", {}));
    if (to_toml(parse_run_config(echo, "again", {})) != echo) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
