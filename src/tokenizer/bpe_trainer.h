#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace deeptitan {

/// How text is cut into pieces before pairs are counted.
enum class PreTokenization {
  kDeepseekV3,  // DeepSeek-V3's tokenizer.json: numbers by three digits, CJK apart, then words, punctuation, spaces
  kGpt2,        // GPT-2's pattern
};

struct BpeTrainOptions {
  /// Entries in all: special tokens, 256 bytes, merges. Fewer come out where the text has no more pairs to merge.
  int32_t vocab_size = 4096;
  /// Take the ids from 0 on, in this order.
  std::vector<std::string> special_tokens = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>",
                                             "<｜User｜>", "<｜Assistant｜>"};
  /// Which of them tokenizer_config.json names.
  std::optional<std::string> bos_token = "<｜begin▁of▁sentence｜>";
  std::optional<std::string> eos_token = "<｜end▁of▁sentence｜>";
  std::optional<std::string> pad_token = "<｜▁pad▁｜>";
  /// Whether encoding puts bos before a text.
  bool add_bos_token = true;
  /// Pairs seen less often are not merged.
  int64_t min_frequency = 2;
  PreTokenization pre_tokenization = PreTokenization::kDeepseekV3;
};

/// Learns a byte-level byte-pair encoding (Sennrich et al. 2016): the pair of neighbouring tokens seen most often in
/// the pieces of `texts` becomes a token, until there are vocab_size. Of equal counts the pair with the lower ids wins,
/// so the result depends on the texts alone; it equals that of PyPI tokenizers' BpeTrainer. Ill-formed UTF-8 is
/// replaced. Throws Error (usage) if vocab_size does not hold the special tokens and 256 bytes, or a token is named
/// twice.
Tokenizer train_bpe(std::span<const std::string_view> texts, const BpeTrainOptions& options = {});

}  // namespace deeptitan
