#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/error.h"

namespace deeptitan {

class InferenceEngine;
class ModelRunner;

/// What a model gave is NaN or infinite.
class NotFinite : public Error {
 public:
  using Error::Error;
};

/// Of the log-probability of token `id` at `place` of its text.
NotFinite logprob_not_finite(double logprob, int64_t place, int32_t id);

/// Runs `tokens` again with the output of every op looked at, and throws Error that says what `found` said and which op
/// came first.
[[noreturn]] void explain_not_finite(InferenceEngine& engine, std::span<const int32_t> tokens, const NotFinite& found);
/// The same on a runner that has pages left for the tokens.
[[noreturn]] void explain_not_finite(ModelRunner& runner, std::span<const int32_t> tokens, const NotFinite& found);

}  // namespace deeptitan
