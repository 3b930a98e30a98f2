#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe_model.h"
#include "tokenizer/regex_pattern.h"

namespace deeptitan {

/// What a tokenizer.json says, as far as encoding and decoding need it.
struct TokenizerDescription {
  bool normalize_nfc = false;
  std::vector<RegexPattern> splits;
  std::vector<std::pair<std::string, int32_t>> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;
  bool ignore_merges = false;
  BpeModel::Ranks merge_ranks = BpeModel::Ranks::kByPlace;
  std::optional<std::string> unknown_token;
  std::vector<AddedToken> added_tokens;
  bool has_post_processor = false;
  std::vector<int32_t> prefix_ids;  // of the post-processor
  std::vector<int32_t> suffix_ids;
};

/// What a tokenizer_config.json says on top of it.
struct TokenizerConfigDescription {
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::optional<std::string> pad_token;
  std::optional<std::string> tokenizer_class;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  std::vector<AddedToken> added_tokens;
};

/// The regular expression of a ByteLevel pre-tokenizer with use_regex: GPT-2's.
extern const std::string_view kGpt2Pattern;

/// Reads a tokenizer.json (format of the tokenizers library, version "1.0"). Throws Error that names what is missing,
/// of the wrong type or unsupported.
TokenizerDescription parse_tokenizer_json(std::string_view text);

/// Reads a tokenizer_config.json (format of the transformers library).
TokenizerConfigDescription parse_tokenizer_config(std::string_view text);

}  // namespace deeptitan
