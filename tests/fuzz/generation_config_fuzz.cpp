// generation_config.json of any bytes: it is refused with an Error, or its ids and sampling are within their ranges.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "generate/generation_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deeptitan;
  constexpr int64_t kVocabulary = 1000;
  try {
    const GenerationConfig config =
        parse_generation_config({reinterpret_cast<const char*>(data), size}, "input", kVocabulary);
    for (const int32_t id : config.end_ids) {
      if (id < 0 || id >= kVocabulary) std::abort();
    }
    const SamplingOptions& s = config.sampling;
    if (!std::isfinite(s.temperature) || s.temperature < 0 || s.top_k < 0 || !(s.top_p > 0 && s.top_p <= 1) ||
        !(s.min_p >= 0 && s.min_p <= 1) || !(s.repetition_penalty > 0)) {
      std::abort();
    }
  } catch (const Error&) {
  }
  return 0;
}
