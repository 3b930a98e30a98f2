#include "generate/generation.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "kernels/cpu/loss/cross_entropy.h"

namespace deeptitan {
namespace {

double logprob_of(std::span<const float> logits, int32_t id) {
  float logprob = 0;
  cpu::token_logprobs(&logprob, nullptr, logits.data(), std::ssize(logits), &id, 1, std::ssize(logits));
  return logprob;
}

}  // namespace

std::vector<bool> decodable_ids(const Tokenizer& tokenizer) {
  std::vector<bool> decodable(tokenizer.vocab_size());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) decodable[id] = !tokenizer.token_bytes(id).empty();
  return decodable;
}

void check_generation(int64_t prompt_tokens, int64_t context_length, const GenerationOptions& options) {
  DT_CHECK_USAGE(options.max_new_tokens > 0, "max-new-tokens = {}: expected at least 1", options.max_new_tokens);
  DT_CHECK_USAGE(
      prompt_tokens < context_length,
      "the prompt has {} tokens and the context {}: shorten the prompt, or use a model or --context with room "
      "for it and an answer",
      prompt_tokens, context_length);
  check_sampling_options(options.sampling);
}

TextInProgress::TextInProgress(const Tokenizer& tokenizer, std::vector<bool> can_be_sampled,
                               std::span<const int32_t> end_ids, const GenerationOptions& options, OnText on_text)
    : tokenizer_(tokenizer),
      end_ids_(end_ids),
      options_(options),
      on_text_(std::move(on_text)),
      sampler_(options.sampling, std::move(can_be_sampled)),
      stops_(options.stop),
      decoder_(tokenizer, options.skip_special_tokens) {}

void TextInProgress::give_out(const std::string& text) {
  if (text.empty()) return;
  result_.text += text;
  if (on_text_) on_text_(text);
}

std::optional<StopReason> TextInProgress::take(std::span<const float> logits, std::vector<int32_t>& sequence) {
  const int32_t id = sampler_.sample(logits, sequence, std::ssize(sequence));
  if (options_.logprobs) result_.logprobs.push_back(logprob_of(logits, id));
  return take(id, sequence);
}

NextToken TextInProgress::next_token(std::span<const int32_t> sequence) {
  NextToken next;
  if (options_.logprobs) return next;
  next.choice = sampler_.choice(std::ssize(sequence));
  if (!next.choice || next.choice->penalty == 1) return next;
  next.earlier = earlier_.of(sequence);
  return next;
}

std::optional<StopReason> TextInProgress::take(int32_t id, std::vector<int32_t>& sequence) {
  sequence.push_back(id);
  result_.tokens.push_back(id);
  if (std::binary_search(end_ids_.begin(), end_ids_.end(), id)) return StopReason::kEndOfText;
  // A special token may end the text, though it is no part of it.
  if (options_.skip_special_tokens && tokenizer_.is_special_token(id)) {
    give_out(stops_.push_hidden(tokenizer_.token_bytes(id)));
  } else {
    give_out(stops_.push(decoder_.push(id)));
  }
  if (stops_.found()) return StopReason::kStopString;
  if (interrupted()) return StopReason::kInterrupted;
  if (std::ssize(result_.tokens) == options_.max_new_tokens) return StopReason::kMaxNewTokens;
  return std::nullopt;
}

void TextInProgress::finish(StopReason reason) {
  result_.reason = reason;
  if (stops_.found() || result_.tokens.empty()) return;
  give_out(stops_.push(decoder_.flush()));
  give_out(stops_.flush());
}

}  // namespace deeptitan
