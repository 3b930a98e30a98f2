#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "generate/inference_engine.h"
#include "generate/sampler.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {

struct GenerationOptions {
  int64_t max_new_tokens = 256;
  SamplingOptions sampling = {};
  std::vector<std::string> stop = {};      // strings that end the text, special tokens' among them; no part of it
  bool skip_special_tokens = true;         // leave special tokens out of the text
  bool logprobs = false;                   // give the new tokens' log-probabilities
  std::function<bool()> interrupted = {};  // asked before each forward: true ends the generation
};

enum class StopReason {
  kEndOfText,  // one of the model's eos tokens
  kStopString,
  kMaxNewTokens,
  kContextFull,
  kInterrupted,  // the caller said so
};

/// What one call generated and how long it took. The first new token comes out of the prefill; the others are decoded.
struct Generation {
  std::string text;
  std::vector<int32_t> tokens;  // new ones; the eos token that ended the text is the last
  std::vector<double>
      logprobs;  // where asked for: of each new token, before temperature and filters; natural logarithm
  StopReason reason = StopReason::kMaxNewTokens;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt, that the cache held already
  double prefill_seconds = 0;
  int64_t decoded_tokens = 0;  // forwards of one token
  double decode_seconds = 0;   // of those, sampling and text included
};

/// The tokens of a prompt: what the tokenizer's files put around a text stands there exactly once, also where the text
/// spells it. An empty prompt becomes one bos (or eos, where there is no bos). Throws a usage error where that leaves
/// nothing to start from.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text);

/// "12 tokens of prompt in 0.10 s (120 tok/s), 30 new in 1.00 s (29 tok/s)": one line of statistics.
std::string describe_speed(const Generation& generation);

/// Gets text out of an engine.
class TextGenerator {
 public:
  /// Called with each piece of text as soon as it is certain.
  using OnText = std::function<void(std::string_view)>;

  /// `end_ids` sorted: see GenerationConfig.
  TextGenerator(InferenceEngine& engine, Tokenizer tokenizer, std::vector<int32_t> end_ids);

  /// Continues `prompt`. What the engine's cache shares with it is not run again. Throws a usage error that says both
  /// lengths where the prompt leaves no room in the context.
  Generation generate(std::span<const int32_t> prompt, const GenerationOptions& options, const OnText& on_text);

 private:
  InferenceEngine& engine_;
  Tokenizer tokenizer_;
  std::vector<int32_t> end_ids_;
};

}  // namespace deeptitan
