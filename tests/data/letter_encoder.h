#pragma once

#include "data/text_encoder.h"

namespace deeptitan {

/// A tokenizer to test with: a token a byte (its value), end of text is 256. Of a conversation it makes, for each
/// message, the first letter of the role, the content and an end of text; the assistant's content and end are learnt.
inline TextEncoder letter_encoder() {
  TextEncoder encoder;
  encoder.encode = [](std::string_view text, std::vector<int32_t>& tokens) {
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  };
  encoder.token_bytes = [](int32_t token) { return token == 256 ? 0 : 1; };
  encoder.eos_token_id = 256;
  encoder.fingerprint = "letters";
  encoder.encode_chat = [](const Conversation& conversation) {
    EncodedTurns turns;
    for (const ChatMessage& message : conversation.messages) {
      turns.ids.push_back(static_cast<unsigned char>(message.role[0]));
      turns.in_loss.push_back(false);
      for (const char c : message.content) turns.ids.push_back(static_cast<unsigned char>(c));
      turns.ids.push_back(256);
      turns.in_loss.resize(turns.ids.size(), message.role == "assistant");
    }
    return turns;
  };
  encoder.chat_fingerprint = "letters of roles";
  return encoder;
}

}  // namespace deeptitan
