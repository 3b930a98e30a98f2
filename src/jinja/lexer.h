#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "jinja/value.h"

namespace deeptitan::jinja {

/// A template that cannot be read: what is wrong and where.
class SyntaxFailure : public Failure {
 public:
  SyntaxFailure(const std::string& message, int at_line) : Failure(message), line(at_line) {}
  int line;
};

enum class TokenType {
  kData,           // text outside of tags
  kVariableBegin,  // {{
  kVariableEnd,
  kBlockBegin,  // {%
  kBlockEnd,
  kName,
  kString,   // unescaped
  kInteger,  // as written
  kFloat,
  kOperator,
  kEnd,
  kError,  // `text` says what cannot be read; nothing follows but kEnd
};

struct Token {
  TokenType type;
  std::string text;
  int line;
};

/// Cuts a template into tokens, with whitespace removed as jinja2 does it for trim_blocks = lstrip_blocks = True and
/// keep_trailing_newline = False (transformers' settings): a block or comment takes the line end behind it and the
/// spaces before it if nothing else stands there on its line; `-` takes all whitespace on its side, `+` keeps it.
/// The last token is kEnd. What cannot be read becomes a kError token, so that the parser reports whichever error
/// comes first.
std::vector<Token> tokenize(std::string_view source);

}  // namespace deeptitan::jinja
