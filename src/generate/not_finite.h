#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/error.h"
#include "generate/inference_engine.h"

namespace deeptitan {

/// What a model gave is NaN or infinite.
class NotFinite : public Error {
 public:
  using Error::Error;
};

/// Runs `tokens` again with the output of every op looked at, and throws Error that says what `found` said and which op
/// came first.
[[noreturn]] void explain_not_finite(InferenceEngine& engine, std::span<const int32_t> tokens, const NotFinite& found);

}  // namespace deeptitan
