#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jinja/lexer.h"

namespace deeptitan::jinja {

/// Walks through the tokens of a template for a parser. Throws SyntaxFailure with the line where it stands.
class TokenReader {
 protected:
  explicit TokenReader(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& look_ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  /// The current token, stepping over it. A kError token throws here.
  Token advance();
  bool at(TokenType type) const { return current().type == type; }
  bool at_operator(std::string_view symbol) const { return at(TokenType::kOperator) && current().text == symbol; }
  bool at_keyword(std::string_view word) const { return at(TokenType::kName) && current().text == word; }
  bool skip_operator(std::string_view symbol);
  bool skip_keyword(std::string_view word);
  Token expect(TokenType type);
  void expect_operator(std::string_view symbol);
  /// Throws with the current line, or with that of the error token that stands here.
  [[noreturn]] void fail(const std::string& message) const;
  /// The current token as an error message names it.
  std::string describe() const;

  /// One level of nesting, refused beyond what evaluation could follow.
  class Nested {
   public:
    explicit Nested(TokenReader& parser);
    ~Nested() { --parser_.nesting_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    TokenReader& parser_;
  };

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace deeptitan::jinja
