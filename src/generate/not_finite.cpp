#include "generate/not_finite.h"

#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "generate/inference_engine.h"
#include "generate/model_runner.h"

namespace deeptitan {
namespace {

[[noreturn]] void fail_with_first_op(const NotFinite& found, const std::string& first) {
  fail(
      "{}. First: {}. The weights are finite, so numbers overflowed in the model: try --dtype fp32, or another "
      "checkpoint where that fails too",
      found.what(), first);
}

constexpr const char* kNoOp = "no op's output, only the result";

}  // namespace

NotFinite logprob_not_finite(double logprob, int64_t place, int32_t id) {
  // The sign of a NaN says nothing: it depends on the order of operands.
  const double shown = std::isnan(logprob) ? std::numeric_limits<double>::quiet_NaN() : logprob;
  return NotFinite(fmt::format("the log-probability of token {} at place {} is not finite ({})", id, place, shown));
}

void explain_not_finite(InferenceEngine& engine, std::span<const int32_t> tokens, const NotFinite& found) {
  std::string first = kNoOp;
  engine.truncate(0);
  engine.set_check_finite(true);
  try {
    engine.prefill(tokens);
  } catch (const Error& error) {
    first = error.what();
  }
  engine.set_check_finite(false);
  engine.truncate(0);
  fail_with_first_op(found, first);
}

void explain_not_finite(ModelRunner& runner, std::span<const int32_t> tokens, const NotFinite& found) {
  std::string first = kNoOp;
  Sequence sequence{.tokens = {tokens.begin(), tokens.end()}, .cached = 0, .pages = {}};
  runner.set_check_finite(true);
  try {
    while (sequence.pending() > 0) {
      const ModelRunner::Rows rows{&sequence, next_chunk(sequence.pending(), runner.options().prefill_chunk)};
      runner.run({&rows, 1});
    }
  } catch (const Error& error) {
    first = error.what();
  }
  runner.set_check_finite(false);
  runner.release(sequence);
  fail_with_first_op(found, first);
}

}  // namespace deeptitan
