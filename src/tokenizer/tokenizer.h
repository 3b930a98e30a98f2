#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/utf8.h"

namespace deeptitan {

struct EncodeOptions {
  /// Add what the tokenizer's files put around a text (DeepSeek: one bos before it).
  bool add_special_tokens = true;
  /// Read a special token spelt out in the text as that token; if false it is text like any other.
  bool parse_special_tokens = true;
};

/// A byte-level BPE tokenizer as Hugging Face files describe it (tokenizer.json, tokenizer_config.json). Token for
/// token equal to PyPI tokenizers; what it does not support is refused when loading, by name. All const functions may
/// be called from several threads at once. Copies are cheap and share everything.
class Tokenizer {
 public:
  /// Reads a directory (tokenizer.json, or where there is none Kimi's tiktoken.model; tokenizer_config.json and
  /// chat_template.jinja where they exist) or one tokenizer.json alone. Throws Error that names the file and what in it
  /// is missing, damaged or unsupported.
  static Tokenizer load(const std::filesystem::path& directory_or_file);

  /// The same from the files' texts (the first is a tokenizer.json or a tiktoken.model); an empty one is as good as
  /// none. The chat template is kept, not read.
  static Tokenizer from_json(std::string tokenizer_json, std::string tokenizer_config_json = {},
                             std::string chat_template_jinja = {});

  /// The tokens of `text`. Text that is not valid UTF-8 is made so first (see utf8_sanitize, which also counts).
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;

  /// The bytes begin to end of each added token that is spelt out in `text`, special ones among them, in order.
  std::vector<std::pair<size_t, size_t>> added_token_places(std::string_view text) const;

  /// encode for each of `texts`, in their order, on all cores.
  std::vector<std::vector<int32_t>> encode_batch(std::span<const std::string_view> texts,
                                                 const EncodeOptions& options = {}) const;

  /// The text of `ids`, as valid UTF-8 (ill-formed parts become U+FFFD). Throws Error for an id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = false) const;

  /// One more than the highest token id. A model's embedding may be larger; ids from here on cannot be decoded.
  int32_t vocab_size() const;

  /// The bytes that a token stands for, which need not be whole characters; empty for an id without a token. Valid as
  /// long as the tokenizer or a copy of it. Throws Error for an id outside the vocabulary.
  std::string_view token_bytes(int32_t id) const;

  /// The id of a token as the files spell it ("<think>", "Ġthe").
  std::optional<int32_t> token_id(std::string_view token) const;

  /// True for the tokens that the files mark as special.
  bool is_special_token(int32_t id) const;

  /// What tokenizer_config.json names as bos_token, eos_token and pad_token.
  std::optional<int32_t> bos_token_id() const;
  std::optional<int32_t> eos_token_id() const;
  std::optional<int32_t> pad_token_id() const;

  /// What add_special_tokens puts before and after a text.
  const std::vector<int32_t>& prefix_ids() const;
  const std::vector<int32_t>& suffix_ids() const;

  /// The files' texts (the first, of whichever holds the vocabulary); empty where there was no such file.
  const std::string& tokenizer_json() const;
  const std::string& tokenizer_config_json() const;
  const std::string& chat_template_jinja() const;

  /// Writes the files into `directory`, which must exist, byte for byte as they were read. Throws Error if one cannot
  /// be written.
  void save(const std::filesystem::path& directory) const;

 private:
  struct State;
  explicit Tokenizer(std::shared_ptr<State> state);
  std::shared_ptr<const State> state_;
};

/// Turns tokens into text one at a time, never splitting a character: what does not yet make one is held back.
class StreamingDecoder {
 public:
  explicit StreamingDecoder(Tokenizer tokenizer, bool skip_special_tokens = true)
      : tokenizer_(std::move(tokenizer)), skip_special_tokens_(skip_special_tokens) {}

  /// The text that this token completes; it may be empty.
  std::string push(int32_t id);

  /// What is still held back, as U+FFFD: call it after the last token.
  std::string flush() { return stream_.flush(); }

 private:
  Tokenizer tokenizer_;
  bool skip_special_tokens_;
  Utf8Stream stream_;
};

}  // namespace deeptitan
