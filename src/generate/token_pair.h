#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace deeptitan {

/// A context and what may follow it.
struct TokenPair {
  std::vector<int32_t> context;
  std::vector<int32_t> continuation;
};

/// Bytes of `text` without the white space at its end: what Python's str.rstrip takes away (the characters of
/// bidirectional type WS, B or S, or category Zs).
size_t length_without_trailing_space(std::string_view text);

/// The tokens of two texts as evaluation harnesses make them (EleutherAI's lm-evaluation-harness, TemplateLM): tokens
/// begin with their space, so all white space at the context's end goes over to the continuation; then the two are
/// encoded as one, and cut where the context's own tokens end. Throws a usage error that begins with `where` for an
/// empty continuation.
TokenPair encode_pair(const Tokenizer& tokenizer, std::string_view context, std::string_view continuation,
                      std::string_view where);

}  // namespace deeptitan
