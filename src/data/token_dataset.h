#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "config/run_config.h"
#include "data/text_encoder.h"
#include "data/token_file.h"

namespace deeptitan {

/// One source of text, tokenised, in two parts: what is trained on and what is held out.
class TokenDataset {
 public:
  /// Opens (or tokenises) the source's text. Without source.validation_path the last `validation_fraction` of its
  /// tokens, or of its conversations, is held out (see validation_cut). A fraction of 0 holds out nothing. Throws a
  /// usage error where a text is missing or empty.
  TokenDataset(const TextSource& source, double validation_fraction, const TextEncoder& encoder,
               const std::filesystem::path& cache_folder);

  const std::string& name() const { return name_; }
  double weight() const { return weight_; }
  double max_passes() const { return max_passes_; }
  const TokenRange& training() const { return training_; }
  const TokenRange& validation() const { return validation_; }
  /// Highest token id of both parts: it must be below the model's vocab_size.
  int32_t largest_token() const;
  /// Changes with the text, the tokenizer and where the held-out part begins.
  std::string fingerprint() const;

 private:
  std::string name_;
  double weight_;
  double max_passes_;
  TokenFile file_;
  std::optional<TokenFile> validation_file_;
  TokenRange training_;
  TokenRange validation_;
};

/// Where the held-out part of `all` begins. Of a text: before the last `fraction` of its tokens, moved to the next
/// beginning of a document where one follows within a tenth of that part. Of conversations: before the last `fraction`
/// of them, rounded to the nearest number.
int64_t validation_cut(const TokenRange& all, double fraction);

/// Opens every source of a run. Throws a usage error where a token is outside the model's `vocab_size`.
std::vector<TokenDataset> open_datasets(const RunConfig& config, const TextEncoder& encoder, int64_t vocab_size);

}  // namespace deeptitan
