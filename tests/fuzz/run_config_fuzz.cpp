// A run file of any bytes, with an override of any bytes on the command line behind a NUL: it is refused with an Error,
// or what it echoes reads back as the same run.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "config/run_config_toml.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deeptitan;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const size_t cut = bytes.find('\0');
  std::vector<ConfigOverride> overrides;
  if (cut != std::string_view::npos) {
    const std::string_view rest = bytes.substr(cut + 1);
    const size_t equals = std::min(rest.find('='), rest.size());
    overrides.push_back(
        {std::string(rest.substr(0, equals)), std::string(rest.substr(std::min(equals + 1, rest.size())))});
  }
  RunConfig config;
  try {
    config = parse_run_config(bytes.substr(0, cut), "input", overrides);
  } catch (const Error&) {
    return 0;
  }
  if (!(parse_run_config(to_toml(config), "echo") == config)) std::abort();
  return 0;
}
