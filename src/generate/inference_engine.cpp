#include "generate/inference_engine.h"

#include <algorithm>

#include "core/error.h"

namespace deeptitan {

// Tokens that a failed call left behind are forgotten first.
void InferenceEngine::append(std::span<const int32_t> tokens) {
  DT_CHECK(!tokens.empty(), "a forward needs at least one token, found none");
  DT_CHECK(length() + static_cast<int64_t>(tokens.size()) <= context_length(),
           "{} tokens do not fit behind the {} in a context of {}", tokens.size(), length(), context_length());
  for (const int32_t id : tokens) {
    DT_CHECK(0 <= id && id < config().vocab_size, "token id {} is outside the model's vocabulary of {}", id,
             config().vocab_size);
  }
  sequence_.tokens.resize(sequence_.cached);
  sequence_.tokens.insert(sequence_.tokens.end(), tokens.begin(), tokens.end());
}

std::span<const float> InferenceEngine::prefill(std::span<const int32_t> tokens) {
  append(tokens);
  std::span<const float> logits;
  while (sequence_.pending() > 0) {
    const ModelRunner::Rows rows{&sequence_, next_chunk(sequence_.pending(), prefill_chunk())};
    logits = runner_.run({&rows, 1});
  }
  return logits;
}

void InferenceEngine::decode(int32_t token, NextToken& next) {
  append({&token, 1});
  const ModelRunner::Rows rows{&sequence_, 1};
  runner_.run({&rows, 1}, {&next, 1});
}

void InferenceEngine::score(std::span<const int32_t> tokens, std::span<const int32_t> targets,
                            std::span<float> logprobs, std::span<int32_t> likeliest) {
  DT_CHECK(targets.size() == tokens.size() && logprobs.size() == tokens.size() && likeliest.size() == tokens.size(),
           "score: {} tokens with {} targets and room for {} and {} results", tokens.size(), targets.size(),
           logprobs.size(), likeliest.size());
  append(tokens);
  for (size_t first = 0; first < tokens.size();) {
    const ModelRunner::Rows rows{&sequence_, next_chunk(sequence_.pending(), prefill_chunk())};
    const auto count = static_cast<size_t>(rows.count);
    runner_.score({&rows, 1}, targets.subspan(first, count), logprobs.subspan(first, count),
                  likeliest.subspan(first, count));
    first += count;
  }
}

void InferenceEngine::truncate(int64_t length) {
  DT_CHECK(0 <= length && length <= this->length(), "truncate to {}: the cache holds {} tokens", length,
           this->length());
  runner_.truncate(sequence_, length);
}

int64_t InferenceEngine::keep_common_prefix(std::span<const int32_t> tokens) {
  const auto most = static_cast<size_t>(std::min(length(), std::max<int64_t>(0, std::ssize(tokens) - 1)));
  size_t same = 0;
  while (same < most && sequence_.tokens[same] == tokens[same]) ++same;
  truncate(static_cast<int64_t>(same));
  return length();
}

}  // namespace deeptitan
