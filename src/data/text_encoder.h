#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/chat_template.h"

namespace deeptitan {

/// What data/ needs of a tokenizer and of its chat template.
struct TextEncoder {
  /// Appends the tokens of a text, without special tokens. Called from several threads at once.
  std::function<void(std::string_view text, std::vector<int32_t>& tokens)> encode;
  /// Bytes of text that a token stands for; 0 for a special token.
  std::function<int64_t(int32_t token)> token_bytes;
  /// The end-of-text token, which stands once behind every document.
  int32_t eos_token_id = 0;
  /// Changes whenever the tokens of some text would: names the cache.
  std::string fingerprint;

  /// The tokens of a conversation and which of them count in the loss; empty where there is no chat template. Throws
  /// Error for messages that the template refuses. Called from several threads at once.
  std::function<EncodedTurns(const Conversation& conversation)> encode_chat;
  /// Changes whenever the tokens of some conversation would.
  std::string chat_fingerprint;
};

}  // namespace deeptitan
