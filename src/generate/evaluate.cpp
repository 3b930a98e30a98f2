#include "generate/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "core/error.h"
#include "generate/not_finite.h"

namespace deeptitan {

namespace {

// `logprob` is that of `id`, the token at `place` of its text, found in a forward of `inputs`.
void check_finite(InferenceEngine& engine, std::span<const int32_t> inputs, double logprob, int64_t place, int32_t id) {
  if (std::isfinite(logprob)) return;
  explain_not_finite(engine, inputs, logprob_not_finite(logprob, place, id));
}

}  // namespace

TextScore score_text(InferenceEngine& engine, const Tokenizer& tokenizer, std::vector<int32_t> token_ids) {
  const auto count = static_cast<int64_t>(token_ids.size());
  DT_CHECK_USAGE(count >= 2, "a text of {} tokens has nothing to predict; expected at least 2", count);
  TextScore result;
  result.token_ids = std::move(token_ids);
  result.logprobs.assign(count, 0.0);
  const std::span<const int32_t> ids = result.token_ids;

  // A window's inputs are tokens [begin, end); its targets are one further.
  const int64_t window = engine.context_length();
  const int64_t stride = std::max<int64_t>(1, window / 2);
  std::vector<int32_t> targets(window), likeliest(window);
  std::vector<float> logprobs(window);
  int64_t scored = 1;  // tokens that have their logprob, or need none
  for (int64_t begin = 0; scored < count; begin += stride) {
    const int64_t end = std::min(begin + window, count - 1);
    const int64_t length = end - begin;
    for (int64_t i = 0; i < length; ++i) targets[i] = begin + i + 1 >= scored ? ids[begin + i + 1] : -1;
    engine.truncate(0);
    engine.score(ids.subspan(begin, length), std::span(targets).first(length), std::span(logprobs).first(length),
                 std::span(likeliest).first(length));
    for (; scored <= end; ++scored) {
      result.logprobs[scored] = logprobs[scored - 1 - begin];
      check_finite(engine, ids.subspan(begin, length), result.logprobs[scored], scored, ids[scored]);
    }
  }

  double nats = 0;
  int64_t bytes = 0;
  for (int64_t i = 1; i < count; ++i) {
    nats -= result.logprobs[i];
    const bool has_bytes = ids[i] < tokenizer.vocab_size() && !tokenizer.is_special_token(ids[i]);
    if (has_bytes) bytes += static_cast<int64_t>(tokenizer.token_bytes(ids[i]).size());
  }
  result.loss = nats / static_cast<double>(count - 1);
  result.perplexity = std::exp(result.loss);
  result.bits_per_byte = bytes == 0 ? 0.0 : nats / std::numbers::ln2 / static_cast<double>(bytes);
  return result;
}

ContinuationScore score_continuation(InferenceEngine& engine, std::span<const int32_t> context,
                                     std::span<const int32_t> continuation) {
  const int64_t most = engine.context_length();
  const auto wanted = static_cast<int64_t>(continuation.size());
  DT_CHECK_USAGE(!context.empty() && wanted > 0,
                 "a context of {} and a continuation of {} tokens: each needs at least one", context.size(), wanted);
  DT_CHECK_USAGE(wanted <= most, "a continuation of {} tokens does not fit in the context of {}", wanted, most);
  std::vector<int32_t> ids(context.begin(), context.end());
  ids.insert(ids.end(), continuation.begin(), continuation.end());
  // The last token is only predicted, so `most` inputs stand for most + 1 tokens.
  if (static_cast<int64_t>(ids.size()) > most + 1) ids.erase(ids.begin(), ids.end() - (most + 1));
  const size_t inputs = ids.size() - 1;
  const size_t first = ids.size() - wanted;
  std::vector<int32_t> targets(inputs, -1), likeliest(inputs);
  std::vector<float> logprobs(inputs);
  for (size_t i = first; i < ids.size(); ++i) targets[i - 1] = ids[i];
  // What the cache shares with the inputs stays, up to the first that is asked for its follower. Dynamic NTK turns all
  // keys with the length in use, so that nothing of another length can stay.
  int64_t kept = 0;
  if (engine.config().rope.kind != RopeKind::kDynamic) {
    kept = std::min(engine.keep_common_prefix(std::span(ids).first(inputs)), static_cast<int64_t>(first) - 1);
  }
  engine.truncate(kept);
  engine.score(std::span(ids).subspan(kept, inputs - kept), std::span(targets).subspan(kept),
               std::span(logprobs).subspan(kept), std::span(likeliest).subspan(kept));

  ContinuationScore result{.is_greedy = true, .tokens = wanted};
  for (size_t i = first; i < ids.size(); ++i) {
    check_finite(engine, std::span(ids).first(inputs), logprobs[i - 1], static_cast<int64_t>(i), ids[i]);
    result.logprob += logprobs[i - 1];
    result.is_greedy = result.is_greedy && likeliest[i - 1] == ids[i];
  }
  return result;
}

}  // namespace deeptitan
