#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "generate/next_token.h"
#include "generate/sampler.h"
#include "generate/stop_strings.h"
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

/// For each id, whether the tokenizer can decode it: what may be sampled.
std::vector<bool> decodable_ids(const Tokenizer& tokenizer);

/// Throws usage errors: at least one new token, options in range, and a prompt that leaves room in the context.
void check_generation(int64_t prompt_tokens, int64_t context_length, const GenerationOptions& options);

/// One text while it is generated: chooses its tokens from logits, turns them into text, and says when it ends.
class TextInProgress {
 public:
  using OnText = std::function<void(std::string_view)>;

  /// `can_be_sampled` as decodable_ids gives it; `end_ids` sorted. `on_text` gets each piece as soon as it is certain.
  TextInProgress(const Tokenizer& tokenizer, std::vector<bool> can_be_sampled, std::span<const int32_t> end_ids,
                 const GenerationOptions& options, OnText on_text);

  /// Chooses the token behind `sequence` (the whole of it) and appends it there. Says why the text ends with it, if it
  /// does. Throws NotFinite as Sampler does.
  std::optional<StopReason> take(std::span<const float> logits, std::vector<int32_t>& sequence);
  /// How that token can be chosen where the logits lie; no choice where they are needed here. What it refers to lasts
  /// until the next call.
  NextToken next_token(std::span<const int32_t> sequence);
  /// The same with the token that was chosen so.
  std::optional<StopReason> take(int32_t id, std::vector<int32_t>& sequence);
  /// Gives out what is still held back, and notes the reason.
  void finish(StopReason reason);

  bool interrupted() const { return options_.interrupted && options_.interrupted(); }
  Generation& result() { return result_; }

 private:
  void give_out(const std::string& text);

  const Tokenizer& tokenizer_;
  std::span<const int32_t> end_ids_;
  GenerationOptions options_;
  OnText on_text_;
  Sampler sampler_;
  EarlierTokens earlier_;
  StopStrings stops_;
  StreamingDecoder decoder_;
  Generation result_;
};

}  // namespace deeptitan
