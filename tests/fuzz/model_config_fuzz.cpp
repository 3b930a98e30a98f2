// config.json of any bytes: it is refused with an Error, or the model that it describes is written and read again the
// same. Also as [model.shape] over a model by name.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "config/model_config_json.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deeptitan;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const ModelConfig config = parse_model_config(text, "input");
    const std::string written = to_json(config, "bfloat16");
    if (to_json(parse_model_config(written, "again"), "bfloat16") != written) std::abort();
  } catch (const Error&) {
  }
  try {
    with_overrides(named_model_config("tiny-v3"), text, "input");
  } catch (const Error&) {
  }
  return 0;
}
