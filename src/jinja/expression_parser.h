#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "jinja/ast.h"
#include "jinja/token_reader.h"

namespace deeptitan::jinja {

/// Reads expressions from tokens by recursive descent. Precedence, from loosest: if/else, or, and, not, comparisons,
/// + and -, ~, * / // %, ** (to the left, as in jinja2), unary, then calls, attributes, items, filters and tests.
/// Throws SyntaxFailure.
class ExpressionParser : protected TokenReader {
 protected:
  struct TupleRules {
    bool conditional = true;                         // may an element be `a if b`?
    bool parentheses = false;                        // is () allowed?
    std::initializer_list<std::string_view> ends{};  // keywords that end the tuple
  };

  explicit ExpressionParser(std::vector<Token> tokens) : TokenReader(std::move(tokens)) {}

  ExpressionPtr parse_expression(bool conditional = true);
  ExpressionPtr parse_tuple(const TupleRules& rules);
  /// What `set` and `for` assign to: a name, a tuple of them, or for `set` a namespace's field.
  ExpressionPtr parse_target(bool with_namespace, std::initializer_list<std::string_view> ends = {});
  /// `|name(arguments)|...` behind `subject`, or from `name` on for the filter block.
  ExpressionPtr parse_filters(ExpressionPtr subject, bool starts_with_name = false);

  // In a branch that may never run, a filter or test that does not exist is an error only when it is reached.
  bool in_branch_ = false;

 private:
  ExpressionPtr make(ExpressionKind kind, int line, std::vector<ExpressionPtr> items = {}, std::string name = "") const;
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concat();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filters = true);
  ExpressionPtr parse_primary(bool with_namespace = false);
  ExpressionPtr parse_postfix(ExpressionPtr node);
  ExpressionPtr parse_filters_and_tests(ExpressionPtr node);
  ExpressionPtr parse_subscript(ExpressionPtr node);
  ExpressionPtr parse_slice_or_index(std::vector<ExpressionPtr>& bounds);
  ExpressionPtr parse_call(ExpressionPtr node);
  ExpressionPtr parse_test(ExpressionPtr node);
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  CallArguments parse_arguments();
  std::string parse_dotted_name();
  static int deepest(const CallArguments& arguments);
};

}  // namespace deeptitan::jinja
