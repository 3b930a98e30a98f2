#include "generate/text_generator.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "core/clock.h"
#include "core/error.h"
#include "generate/not_finite.h"
#include "generate/stop_strings.h"

namespace deeptitan {
namespace {

std::vector<bool> decodable_ids(const Tokenizer& tokenizer) {
  std::vector<bool> decodable(tokenizer.vocab_size());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) decodable[id] = !tokenizer.token_bytes(id).empty();
  return decodable;
}

double rate(int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
}

double logprob_of(std::span<const float> logits, int32_t id) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return logits[id] - largest - std::log(sum);
}

int32_t next_token(InferenceEngine& engine, Sampler& sampler, std::span<const float> logits,
                   std::span<const int32_t> sequence) {
  try {
    return sampler.sample(logits, sequence, static_cast<int64_t>(sequence.size()));
  } catch (const NotFinite& found) {
    explain_not_finite(engine, sequence, found);
  }
}

}  // namespace

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids = tokenizer.encode(text, {.add_special_tokens = false});
  const std::vector<int32_t>& prefix = tokenizer.prefix_ids();
  const bool spelt_out = ids.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), ids.begin());
  if (!spelt_out) ids.insert(ids.begin(), prefix.begin(), prefix.end());
  if (ids.empty()) {
    const auto start = tokenizer.bos_token_id() ? tokenizer.bos_token_id() : tokenizer.eos_token_id();
    DT_CHECK_USAGE(start,
                   "the prompt is empty, and the tokenizer names neither a bos_token nor an eos_token to start from");
    ids.push_back(*start);
  }
  return ids;
}

std::string describe_speed(const Generation& g) {
  const int64_t run = g.prompt_tokens - g.cached_tokens;
  std::string line = fmt::format("prefill: {} tokens in {:.3f} s, {:.1f} tokens/s", run, g.prefill_seconds,
                                 rate(run, g.prefill_seconds));
  if (g.cached_tokens > 0) line += fmt::format(" ({} more were cached)", g.cached_tokens);
  return line + fmt::format("; decode: {} tokens in {:.3f} s, {:.1f} tokens/s", g.decoded_tokens, g.decode_seconds,
                            rate(g.decoded_tokens, g.decode_seconds));
}

TextGenerator::TextGenerator(InferenceEngine& engine, Tokenizer tokenizer, std::vector<int32_t> end_ids)
    : engine_(engine), tokenizer_(std::move(tokenizer)), end_ids_(std::move(end_ids)) {}

Generation TextGenerator::generate(std::span<const int32_t> prompt, const GenerationOptions& options,
                                   const OnText& on_text) {
  DT_CHECK_USAGE(options.max_new_tokens > 0, "max-new-tokens = {}: expected at least 1", options.max_new_tokens);
  DT_CHECK_USAGE(
      static_cast<int64_t>(prompt.size()) < engine_.context_length(),
      "the prompt has {} tokens and the context {}: shorten the prompt, or use a model or --context with room "
      "for it and an answer",
      prompt.size(), engine_.context_length());
  Sampler sampler(options.sampling, decodable_ids(tokenizer_));
  StopStrings stops(options.stop);
  StreamingDecoder decoder(tokenizer_, options.skip_special_tokens);
  Generation result;
  const auto give_out = [&](const std::string& text) {
    if (text.empty()) return;
    result.text += text;
    on_text(text);
  };
  const auto interrupted = [&] { return options.interrupted && options.interrupted(); };
  std::vector<int32_t> sequence(prompt.begin(), prompt.end());
  sequence.reserve(engine_.context_length() + 1);

  const double start = monotonic_seconds();
  result.prompt_tokens = static_cast<int64_t>(prompt.size());
  result.cached_tokens = engine_.keep_common_prefix(prompt);
  std::span<const float> logits;
  while (engine_.length() < result.prompt_tokens && !interrupted()) {
    const auto rest = prompt.subspan(engine_.length());
    logits = engine_.prefill(rest.first(next_chunk(std::ssize(rest), engine_.prefill_chunk())));
  }
  const double prefilled = monotonic_seconds();
  result.prefill_seconds = prefilled - start;
  if (engine_.length() < result.prompt_tokens) {
    result.reason = StopReason::kInterrupted;
    return result;
  }
  while (true) {
    const int32_t id = next_token(engine_, sampler, logits, sequence);
    if (options.logprobs) result.logprobs.push_back(logprob_of(logits, id));
    sequence.push_back(id);
    result.tokens.push_back(id);
    if (std::binary_search(end_ids_.begin(), end_ids_.end(), id)) {
      result.reason = StopReason::kEndOfText;
      break;
    }
    // A special token may end the text, though it is no part of it.
    if (options.skip_special_tokens && tokenizer_.is_special_token(id)) {
      give_out(stops.push_hidden(tokenizer_.token_bytes(id)));
    } else {
      give_out(stops.push(decoder.push(id)));
    }
    if (stops.found()) {
      result.reason = StopReason::kStopString;
      break;
    }
    if (interrupted()) {
      result.reason = StopReason::kInterrupted;
      break;
    }
    if (static_cast<int64_t>(result.tokens.size()) == options.max_new_tokens) {
      result.reason = StopReason::kMaxNewTokens;
      break;
    }
    if (engine_.length() == engine_.context_length()) {
      result.reason = StopReason::kContextFull;
      break;
    }
    logits = engine_.decode(id);
    ++result.decoded_tokens;
  }
  if (!stops.found()) {
    give_out(stops.push(decoder.flush()));
    give_out(stops.flush());
  }
  result.decode_seconds = monotonic_seconds() - prefilled;
  return result;
}

}  // namespace deeptitan
