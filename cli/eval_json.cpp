#include "eval_json.h"

#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/json_reader.h"

namespace deeptitan {

using Json = nlohmann::ordered_json;

std::vector<int32_t> parse_token_ids(const Json& json, const std::string& where) {
  DT_CHECK_USAGE(json.is_array(), "{}: expected a JSON array of token ids, found {}", where, json_kind(json));
  std::vector<int32_t> ids;
  for (const Json& id : json) {
    const bool in_range = id.is_number_unsigned() && id.get<uint64_t>() <= std::numeric_limits<int32_t>::max();
    DT_CHECK_USAGE(in_range, "{}: {} at place {} is not a token id", where, shown_json(id), ids.size());
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

TokenPair parse_pair(const Tokenizer& tokenizer, const Json& json, const std::string& where) {
  const auto is = [&](auto test) {
    return json.is_object() && json.contains("context") && json.contains("continuation") && test(json["context"]) &&
           test(json["continuation"]);
  };
  if (is([](const Json& value) { return value.is_array(); })) {
    return {parse_token_ids(json["context"], where + ": context"),
            parse_token_ids(json["continuation"], where + ": continuation")};
  }
  DT_CHECK_USAGE(is([](const Json& value) { return value.is_string(); }),
                 "{}: expected an object with the texts context and continuation", where);
  return encode_pair(tokenizer, json["context"].get<std::string>(), json["continuation"].get<std::string>(), where);
}

void check_token_ids(std::span<const int32_t> ids, int64_t vocab_size, const std::string& where) {
  for (const int32_t id : ids) {
    DT_CHECK_USAGE(0 <= id && id < vocab_size, "{}: token id {} is outside the model's vocabulary of {}", where, id,
                   vocab_size);
  }
}

void check_pair(const TokenPair& pair, int64_t vocab_size, int64_t context_length, const std::string& where) {
  DT_CHECK_USAGE(!pair.context.empty() && !pair.continuation.empty(),
                 "{}: a context of {} and a continuation of {} tokens: each needs at least one", where,
                 pair.context.size(), pair.continuation.size());
  DT_CHECK_USAGE(std::ssize(pair.continuation) <= context_length,
                 "{}: a continuation of {} tokens does not fit in the context of {}", where, pair.continuation.size(),
                 context_length);
  check_token_ids(pair.context, vocab_size, where);
  check_token_ids(pair.continuation, vocab_size, where);
}

Json score_as_json(const TextScore& score) {
  Json logprobs = Json::array({nullptr});
  for (size_t i = 1; i < score.logprobs.size(); ++i) logprobs.push_back(score.logprobs[i]);
  return {{"token_ids", score.token_ids},
          {"logprobs", logprobs},
          {"logprob", std::accumulate(score.logprobs.begin(), score.logprobs.end(), 0.0)},
          {"loss", score.loss},
          {"perplexity", score.perplexity},
          {"bits_per_byte", score.bits_per_byte}};
}

void add_prefix_token(const Tokenizer& tokenizer, std::vector<int32_t>& ids) {
  const auto prefix = tokenizer.bos_token_id() ? tokenizer.bos_token_id() : tokenizer.eos_token_id();
  DT_CHECK_USAGE(prefix, "the tokenizer names neither a bos_token nor an eos_token to put before a text");
  if (ids.empty() || ids.front() != *prefix) ids.insert(ids.begin(), *prefix);
}

}  // namespace deeptitan
