#pragma once

#include "data/text_encoder.h"

namespace deeptitan {

/// A tokenizer to test with: a token a byte (its value), end of text is 256.
inline TextEncoder letter_encoder() {
  TextEncoder encoder;
  encoder.encode = [](std::string_view text, std::vector<int32_t>& tokens) {
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  };
  encoder.token_bytes = [](int32_t token) { return token == 256 ? 0 : 1; };
  encoder.eos_token_id = 256;
  encoder.fingerprint = "letters";
  return encoder;
}

}  // namespace deeptitan
