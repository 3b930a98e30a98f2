#include "jinja/token_reader.h"

#include <fmt/format.h>

namespace deeptitan::jinja {
namespace {

constexpr int kMaxNesting = 100;  // brackets and blocks inside one another

}  // namespace

TokenReader::Nested::Nested(TokenReader& parser) : parser_(parser) {
  if (parser_.nesting_ >= kMaxNesting)
    parser_.fail(fmt::format("brackets and blocks are nested more than {} deep", kMaxNesting));
  ++parser_.nesting_;
}

Token TokenReader::advance() {
  if (at(TokenType::kError)) fail("");
  Token token = current();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool TokenReader::skip_operator(std::string_view symbol) {
  if (!at_operator(symbol)) return false;
  advance();
  return true;
}

bool TokenReader::skip_keyword(std::string_view word) {
  if (!at_keyword(word)) return false;
  advance();
  return true;
}

Token TokenReader::expect(TokenType type) {
  if (at(type)) return advance();
  const std::string_view wanted = type == TokenType::kName          ? "a name"
                                  : type == TokenType::kBlockEnd    ? "the end of the block, %}"
                                  : type == TokenType::kVariableEnd ? "the end of the print statement, }}"
                                                                    : "something else";
  fail(fmt::format("expected {}, got {}", wanted, describe()));
}

void TokenReader::expect_operator(std::string_view symbol) {
  if (!skip_operator(symbol)) fail(fmt::format("expected '{}', got {}", symbol, describe()));
}

void TokenReader::fail(const std::string& message) const {
  throw SyntaxFailure(at(TokenType::kError) ? current().text : message, current().line);
}

std::string TokenReader::describe() const {
  switch (current().type) {
    case TokenType::kEnd:
      return "the end of the template";
    case TokenType::kData:
      return "text";
    case TokenType::kString:
      return "a string";
    default:
      return fmt::format("'{}'", current().text);
  }
}

}  // namespace deeptitan::jinja
