#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "generate/evaluate.h"
#include "generate/token_pair.h"
#include "tokenizer/tokenizer.h"

namespace deeptitan {

/// The token ids of a JSON array. Throws a usage error that begins with `where` for anything else.
std::vector<int32_t> parse_token_ids(const nlohmann::ordered_json& json, const std::string& where);

/// The `context` and `continuation` of a JSON object, both texts (see encode_pair) or both lists of token ids, which
/// are taken as they are. Throws a usage error that begins with `where` for anything else.
TokenPair parse_pair(const Tokenizer& tokenizer, const nlohmann::ordered_json& json, const std::string& where);

/// A text's score: token_ids, logprobs (the first null), logprob (their sum), loss, perplexity, bits_per_byte.
nlohmann::ordered_json score_as_json(const TextScore& score);

/// Puts bos (eos, where the tokenizer has no bos) before `ids`, unless they begin with it. Throws a usage error where
/// it has neither.
void add_prefix_token(const Tokenizer& tokenizer, std::vector<int32_t>& ids);

}  // namespace deeptitan
