#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "generate/inference_engine.h"
#include "generate/token_pair.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {

/// How well a model predicts a text.
struct TextScore {
  std::vector<int32_t> token_ids;
  std::vector<double>
      logprobs;              // natural logarithm of each token's probability given those before it; [0] is 0, unscored
  double loss = 0;           // nats a scored token
  double perplexity = 0;     // e^loss
  double bits_per_byte = 0;  // of the scored tokens' bytes; special tokens have none
};

/// Scores every token but the first. A text longer than the context goes through windows of the context's length that
/// advance by half of it (by at least one token): a token's logprob comes from the first window it stands in, so that
/// behind the first window each sees at least half a context before it. Throws a usage error for fewer than two tokens,
/// and Error that names the place where a log-probability is not finite.
TextScore score_text(InferenceEngine& engine, const Tokenizer& tokenizer, std::vector<int32_t> token_ids);

/// How probable a continuation is.
struct ContinuationScore {
  double logprob = 0;      // natural logarithm, summed over the continuation's tokens
  bool is_greedy = false;  // each of its tokens is the likeliest where it stands
  int64_t tokens = 0;      // of the continuation
};

/// Scores `continuation` behind `context` (which must hold at least one token). What is longer than the engine's
/// context loses tokens at the front. Throws a usage error where the continuation is empty or does not itself fit, and
/// Error that names the place where a log-probability is not finite. What the context shares with the tokens that the
/// engine's cache holds is not run again: of continuations of one context, one after another, the context runs once.
ContinuationScore score_continuation(InferenceEngine& engine, std::span<const int32_t> context,
                                     std::span<const int32_t> continuation);

/// The options of a runner on which score_pairs runs many pairs at once: `options` with sequences, batch_tokens and
/// pages for that.
RunnerOptions scoring_options(const ModelConfig& config, RunnerOptions options);

/// score_continuation of each pair, in the order of `pairs`, many in one batch: a context that several pairs share is
/// run once, and so is the beginning that contexts share (the examples that a benchmark puts before each question). The
/// runner's cache must be empty.
std::vector<ContinuationScore> score_pairs(ModelRunner& runner, std::span<const TokenPair> pairs);

}  // namespace deeptitan
