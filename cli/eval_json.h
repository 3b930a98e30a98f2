#pragma once

#include <cstdint>
#include <span>
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

/// Throws a usage error that begins with `where` for an id outside the model's vocabulary.
void check_token_ids(std::span<const int32_t> ids, int64_t vocab_size, const std::string& where);

/// The same for both parts of a pair, for one that is empty, and for a continuation longer than the context.
void check_pair(const TokenPair& pair, int64_t vocab_size, int64_t context_length, const std::string& where);

/// A text's score: token_ids, logprobs (the first null), logprob (their sum), loss, perplexity, bits_per_byte.
nlohmann::ordered_json score_as_json(const TextScore& score);

/// Puts bos (eos, where the tokenizer has no bos) before `ids`, unless they begin with it. Throws a usage error where
/// it has neither.
void add_prefix_token(const Tokenizer& tokenizer, std::vector<int32_t>& ids);

}  // namespace deeptitan
