#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "config/run_config.h"
#include "data/text_documents.h"
#include "data/text_encoder.h"

namespace deeptitan {

/// Tokens [first, end) of a token file, with the documents that they belong to.
struct TokenRange {
  std::span<const int32_t> tokens;           // of the whole file
  std::span<const int64_t> document_starts;  // [documents + 1], of the whole file; the last is the number of tokens
  int64_t first = 0;
  int64_t end = 0;
  /// A bit a token of the whole file: bit t % 8 of byte t / 8 says whether token t counts in the loss. Empty where all
  /// do: a text. A file that has it is of conversations, which are packed whole.
  std::span<const uint8_t> in_loss = {};

  int64_t size() const { return end - first; }
  bool is_chat() const { return !in_loss.empty(); }
  bool counts(int64_t token) const {
    const auto t = static_cast<size_t>(token);
    return in_loss.empty() || (in_loss[t / 8] >> (t % 8) & 1) != 0;
  }
};

/// A tokenised text on disk: the tokens of every document in order, each document followed by one end-of-text token; or
/// the tokens of every conversation as its chat template has it, and which of them count in the loss. The tokens are
/// mapped, not read, so a text may be larger than memory.
class TokenFile {
 public:
  /// Throws Error unless the file is whole.
  explicit TokenFile(const std::filesystem::path& path);
  TokenFile(TokenFile&&) noexcept;
  TokenFile& operator=(TokenFile&&) noexcept;
  ~TokenFile();

  const std::filesystem::path& path() const;
  /// All tokens of the file.
  TokenRange all() const;
  const TextStatistics& statistics() const;
  int32_t largest_token() const;
  /// Hash of the text, the tokenizer and how the text was read.
  const std::string& content_hash() const;

 private:
  struct State;
  std::unique_ptr<const State> state_;
};

/// The tokens of the text at `path`, read as `source` says: from `cache_folder` where an earlier run left them for the
/// same text, tokenizer (chat template, for conversations) and options, else tokenised now, on all cores, and left
/// there whole or not at all. Says on the log what was read, and warns of text that was not UTF-8 and of answers
/// without an end. Throws a usage error if there is no text or a line that holds no conversation, named by file and
/// line.
TokenFile open_token_file(const TextSource& source, const std::filesystem::path& path, const TextEncoder& encoder,
                          const std::filesystem::path& cache_folder);

}  // namespace deeptitan
