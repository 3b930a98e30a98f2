// The chat-template interpreter on any template: it is refused with an Error, or it renders within the limits.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.h"
#include "jinja/template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deeptitan;
  static const jinja::Value variables = jinja::value_from_json(
      R"({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi \u4f60\ud83d\ude00"},
          {"role": "assistant", "content": "<think>a</think>b", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1.5}}}]}],
          "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true, "tools": null})",
      "variables");
  jinja::RenderOptions options;
  options.limits.max_work = 1 << 22;
  options.limits.max_loop_iterations = 10'000;
  options.limits.max_output_bytes = 1 << 16;
  try {
    const jinja::Template parsed(std::string_view(reinterpret_cast<const char*>(data), size), "input");
    const std::string text = parsed.render(*variables.as_dict(), options);
    if (text.size() > static_cast<size_t>(options.limits.max_output_bytes)) std::abort();
    if (parsed.render(*variables.as_dict(), options) != text) std::abort();
  } catch (const Error&) {
    return 0;
  }
  return 0;
}
