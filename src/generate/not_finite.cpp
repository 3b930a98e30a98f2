#include "generate/not_finite.h"

namespace deeptitan {

void explain_not_finite(InferenceEngine& engine, std::span<const int32_t> tokens, const NotFinite& found) {
  std::string first = "no op's output, only the result";
  engine.truncate(0);
  engine.set_check_finite(true);
  try {
    engine.prefill(tokens);
  } catch (const Error& error) {
    first = error.what();
  }
  engine.set_check_finite(false);
  engine.truncate(0);
  fail(
      "{}. First: {}. The weights are finite, so numbers overflowed in the model: try --dtype fp32, or another "
      "checkpoint where that fails too",
      found.what(), first);
}

}  // namespace deeptitan
