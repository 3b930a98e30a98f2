#include "generate/text_generator.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "core/clock.h"
#include "core/error.h"
#include "generate/not_finite.h"

namespace deeptitan {
namespace {

double rate(int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
}

}  // namespace

std::string describe_speed(const Generation& g) {
  const int64_t run = g.prompt_tokens - g.cached_tokens;
  std::string line = fmt::format("prefill: {} tokens in {:.3f} s, {:.1f} tokens/s", run, g.prefill_seconds,
                                 rate(run, g.prefill_seconds));
  if (g.cached_tokens > 0) line += fmt::format(" ({} more were cached)", g.cached_tokens);
  return line + fmt::format("; decode: {} tokens in {:.3f} s, {:.1f} tokens/s", g.decoded_tokens, g.decode_seconds,
                            rate(g.decoded_tokens, g.decode_seconds));
}

TextGenerator::TextGenerator(InferenceEngine& engine, Tokenizer tokenizer, std::vector<int32_t> end_ids)
    : engine_(engine),
      tokenizer_(std::move(tokenizer)),
      end_ids_(std::move(end_ids)),
      decodable_(decodable_ids(tokenizer_)) {
  engine_.runner().allow(decodable_);
}

Generation TextGenerator::generate(std::span<const int32_t> prompt, const GenerationOptions& options,
                                   const OnText& on_text) {
  check_generation(std::ssize(prompt), engine_.context_length(), options);
  TextInProgress text(tokenizer_, decodable_, end_ids_, options, on_text);
  Generation& result = text.result();
  std::vector<int32_t> sequence(prompt.begin(), prompt.end());
  sequence.reserve(engine_.context_length() + 1);

  const double start = monotonic_seconds();
  result.prompt_tokens = std::ssize(prompt);
  result.cached_tokens = engine_.keep_common_prefix(prompt);
  std::span<const float> logits;
  while (engine_.length() < result.prompt_tokens && !text.interrupted()) {
    const auto rest = prompt.subspan(engine_.length());
    logits = engine_.prefill(rest.first(next_chunk(std::ssize(rest), engine_.prefill_chunk())));
  }
  const double prefilled = monotonic_seconds();
  result.prefill_seconds = prefilled - start;
  if (engine_.length() < result.prompt_tokens) {
    result.reason = StopReason::kInterrupted;
    return result;
  }
  std::optional<StopReason> reason;
  NextToken next;
  while (!reason) {
    try {
      reason = next.token >= 0 ? text.take(next.token, sequence) : text.take(logits, sequence);
    } catch (const NotFinite& found) {
      explain_not_finite(engine_, sequence, found);
    }
    if (!reason && engine_.length() == engine_.context_length()) reason = StopReason::kContextFull;
    if (reason) break;
    next = text.next_token(sequence);
    engine_.decode(sequence.back(), next);
    logits = engine_.logits();
    ++result.decoded_tokens;
  }
  text.finish(*reason);
  result.decode_seconds = monotonic_seconds() - prefilled;
  return result;
}

}  // namespace deeptitan
