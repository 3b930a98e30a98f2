#include "jinja/expression_parser.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "jinja/builtins.h"
#include "jinja/text.h"

namespace deeptitan::jinja {
namespace {

constexpr int kMaxExpressionDepth = 300;  // nodes above one another; a + b + c is three deep

template <size_t kCount>
bool among(std::string_view word, const std::string_view (&words)[kCount]) {
  return std::find(std::begin(words), std::end(words), word) != std::end(words);
}

constexpr std::string_view kComparisons[] = {"==", "!=", "<", "<=", ">", ">="};
constexpr std::string_view kConstants[] = {"true", "false", "none", "True", "False", "None"};

bool can_assign(const Expression& target) {
  if (target.kind == ExpressionKind::kTuple) {
    return std::all_of(target.items.begin(), target.items.end(),
                       [](const ExpressionPtr& item) { return can_assign(*item); });
  }
  return target.kind == ExpressionKind::kName || target.kind == ExpressionKind::kNamespaceField;
}

}  // namespace

ExpressionPtr ExpressionParser::make(ExpressionKind kind, int line, std::vector<ExpressionPtr> items,
                                     std::string name) const {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = line;
  node->name = std::move(name);
  for (const ExpressionPtr& item : items) {
    if (item != nullptr) node->depth = std::max(node->depth, item->depth + 1);
  }
  if (node->depth > kMaxExpressionDepth) {
    throw SyntaxFailure(fmt::format("an expression has more than {} operators in a row", kMaxExpressionDepth), line);
  }
  node->items = std::move(items);
  return node;
}

int ExpressionParser::deepest(const CallArguments& arguments) {
  int depth = 0;
  for (const ExpressionPtr& item : arguments.positional) depth = std::max(depth, item->depth);
  for (const auto& item : arguments.keywords) depth = std::max(depth, item.second->depth);
  if (arguments.spread != nullptr) depth = std::max(depth, arguments.spread->depth);
  if (arguments.spread_keywords != nullptr) depth = std::max(depth, arguments.spread_keywords->depth);
  return depth;
}

namespace {

std::vector<ExpressionPtr> nodes(ExpressionPtr a, ExpressionPtr b = nullptr) {
  std::vector<ExpressionPtr> out;
  out.push_back(std::move(a));
  if (b != nullptr) out.push_back(std::move(b));
  return out;
}

}  // namespace

ExpressionPtr ExpressionParser::parse_expression(bool conditional) {
  const Nested nested(*this);
  if (!conditional) return parse_or();
  int line = current().line;
  const bool in_branch = in_branch_;
  ExpressionPtr value = parse_or();
  while (skip_keyword("if")) {
    in_branch_ = true;
    std::vector<ExpressionPtr> items;
    items.push_back(parse_or());
    items.push_back(std::move(value));
    items.push_back(skip_keyword("else") ? parse_expression() : nullptr);
    value = make(ExpressionKind::kConditional, line, std::move(items));
    line = current().line;
  }
  in_branch_ = in_branch;
  return value;
}

ExpressionPtr ExpressionParser::parse_or() {
  int line = current().line;
  ExpressionPtr left = parse_and();
  while (skip_keyword("or")) {
    left = make(ExpressionKind::kOr, line, nodes(std::move(left), parse_and()));
    line = current().line;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_and() {
  int line = current().line;
  ExpressionPtr left = parse_not();
  while (skip_keyword("and")) {
    left = make(ExpressionKind::kAnd, line, nodes(std::move(left), parse_not()));
    line = current().line;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_not() {
  if (!at_keyword("not")) return parse_compare();
  const Nested nested(*this);
  const int line = advance().line;
  return make(ExpressionKind::kUnary, line, nodes(parse_not()), "not");
}

ExpressionPtr ExpressionParser::parse_compare() {
  int line = current().line;
  std::vector<ExpressionPtr> operands = nodes(parse_sum());
  std::vector<std::string> operators;
  while (true) {
    if (at(TokenType::kOperator) && among(current().text, kComparisons)) {
      operators.push_back(advance().text);
    } else if (skip_keyword("in")) {
      operators.emplace_back("in");
    } else if (at_keyword("not") && look_ahead().type == TokenType::kName && look_ahead().text == "in") {
      advance();
      advance();
      operators.emplace_back("not in");
    } else {
      break;
    }
    operands.push_back(parse_sum());
    line = current().line;
  }
  if (operators.empty()) return std::move(operands[0]);
  ExpressionPtr node = make(ExpressionKind::kCompare, line, std::move(operands));
  node->operators = std::move(operators);
  return node;
}

ExpressionPtr ExpressionParser::parse_sum() {
  int line = current().line;
  ExpressionPtr left = parse_concat();
  while (at_operator("+") || at_operator("-")) {
    const std::string symbol = advance().text;
    left = make(ExpressionKind::kBinary, line, nodes(std::move(left), parse_concat()), symbol);
    line = current().line;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_concat() {
  const int line = current().line;
  std::vector<ExpressionPtr> parts = nodes(parse_product());
  while (skip_operator("~")) parts.push_back(parse_product());
  if (parts.size() == 1) return std::move(parts[0]);
  return make(ExpressionKind::kConcat, line, std::move(parts));
}

ExpressionPtr ExpressionParser::parse_product() {
  int line = current().line;
  ExpressionPtr left = parse_power();
  while (at_operator("*") || at_operator("/") || at_operator("//") || at_operator("%")) {
    const std::string symbol = advance().text;
    left = make(ExpressionKind::kBinary, line, nodes(std::move(left), parse_power()), symbol);
    line = current().line;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_power() {
  int line = current().line;
  ExpressionPtr left = parse_unary();
  while (skip_operator("**")) {
    left = make(ExpressionKind::kBinary, line, nodes(std::move(left), parse_unary()), "**");
    line = current().line;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filters) {
  const Nested nested(*this);
  const int line = current().line;
  ExpressionPtr node;
  if (at_operator("-") || at_operator("+")) {
    const std::string symbol = advance().text;
    node = make(ExpressionKind::kUnary, line, nodes(parse_unary(false)), symbol);
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filters ? parse_filters_and_tests(std::move(node)) : std::move(node);
}

ExpressionPtr ExpressionParser::parse_primary(bool with_namespace) {
  const int line = current().line;
  if (at(TokenType::kName)) {
    const std::string name = advance().text;
    if (among(name, kConstants)) {
      ExpressionPtr node = make(ExpressionKind::kConstant, line);
      const char first = static_cast<char>(name[0] | 0x20);
      node->constant = first == 'n' ? Value() : Value(first == 't');
      return node;
    }
    if (with_namespace && skip_operator(".")) {
      ExpressionPtr node = make(ExpressionKind::kNamespaceField, line, {}, name);
      node->text = expect(TokenType::kName).text;
      return node;
    }
    return make(ExpressionKind::kName, line, {}, name);
  }
  if (at(TokenType::kString)) {
    std::string text;
    while (at(TokenType::kString)) text += advance().text;
    ExpressionPtr node = make(ExpressionKind::kConstant, line);
    node->constant = Value(std::move(text));
    return node;
  }
  if (at(TokenType::kInteger) || at(TokenType::kFloat)) {
    ExpressionPtr node = make(ExpressionKind::kConstant, line);
    const Token token = advance();
    if (token.type == TokenType::kFloat) {
      node->constant = Value(*parse_float(token.text));
      return node;
    }
    try {
      node->constant = Value(*parse_int(token.text, 0));
    } catch (const Failure& failure) {
      throw SyntaxFailure(failure.what(), line);
    }
    return node;
  }
  if (skip_operator("(")) {
    ExpressionPtr node = parse_tuple({.conditional = true, .parentheses = true});
    expect_operator(")");
    return node;
  }
  if (at_operator("[")) return parse_list();
  if (at_operator("{")) return parse_dict();
  fail(fmt::format("expected an expression, got {}", describe()));
}

ExpressionPtr ExpressionParser::parse_tuple(const TupleRules& rules) {
  int line = current().line;
  std::vector<ExpressionPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) expect_operator(",");
    const bool ends =
        at(TokenType::kVariableEnd) || at(TokenType::kBlockEnd) || at_operator(")") ||
        std::any_of(rules.ends.begin(), rules.ends.end(), [&](std::string_view word) { return at_keyword(word); });
    if (ends) break;
    items.push_back(parse_expression(rules.conditional));
    if (!at_operator(",")) break;
    is_tuple = true;
    line = current().line;
  }
  if (!is_tuple && !items.empty()) return std::move(items[0]);
  if (!is_tuple && !rules.parentheses) fail(fmt::format("expected an expression, got {}", describe()));
  return make(ExpressionKind::kTuple, line, std::move(items));
}

ExpressionPtr ExpressionParser::parse_target(bool with_namespace, std::initializer_list<std::string_view> ends) {
  const int line = current().line;
  std::vector<ExpressionPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) expect_operator(",");
    const bool ended = at(TokenType::kBlockEnd) ||
                       std::any_of(ends.begin(), ends.end(), [&](std::string_view word) { return at_keyword(word); });
    if (ended) break;
    items.push_back(parse_primary(with_namespace));
    if (!at_operator(",")) break;
    is_tuple = true;
  }
  if (items.empty()) fail(fmt::format("expected a name to assign to, got {}", describe()));
  ExpressionPtr target = is_tuple ? make(ExpressionKind::kTuple, line, std::move(items)) : std::move(items[0]);
  if (!can_assign(*target)) throw SyntaxFailure("only names and tuples of names can be assigned to", target->line);
  return target;
}

ExpressionPtr ExpressionParser::parse_list() {
  const int line = advance().line;
  std::vector<ExpressionPtr> items;
  while (!at_operator("]")) {
    if (!items.empty()) expect_operator(",");
    if (at_operator("]")) break;
    items.push_back(parse_expression());
  }
  expect_operator("]");
  return make(ExpressionKind::kList, line, std::move(items));
}

ExpressionPtr ExpressionParser::parse_dict() {
  const int line = advance().line;
  std::vector<ExpressionPtr> items;
  while (!at_operator("}")) {
    if (!items.empty()) expect_operator(",");
    if (at_operator("}")) break;
    items.push_back(parse_expression());
    expect_operator(":");
    items.push_back(parse_expression());
  }
  expect_operator("}");
  return make(ExpressionKind::kDict, line, std::move(items));
}

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr node) {
  while (true) {
    if (at_operator(".") || at_operator("[")) {
      node = parse_subscript(std::move(node));
    } else if (at_operator("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr ExpressionParser::parse_filters_and_tests(ExpressionPtr node) {
  while (true) {
    if (at_operator("|")) {
      node = parse_filters(std::move(node));
    } else if (at_keyword("is")) {
      node = parse_test(std::move(node));
    } else if (at_operator("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr node) {
  const Token token = advance();
  if (token.text == ".") {
    if (at(TokenType::kName))
      return make(ExpressionKind::kAttribute, token.line, nodes(std::move(node)), advance().text);
    if (!at(TokenType::kInteger)) fail("expected name or number");
    return make(ExpressionKind::kItem, token.line, nodes(std::move(node), parse_primary()));
  }
  std::vector<ExpressionPtr> bounds;
  ExpressionPtr index = parse_slice_or_index(bounds);
  if (at_operator(",")) {
    if (index == nullptr) fail("several slices in one subscript are not supported");
    std::vector<ExpressionPtr> items = nodes(std::move(index));
    while (skip_operator(",")) {
      items.push_back(parse_slice_or_index(bounds));
      if (items.back() == nullptr) fail("several slices in one subscript are not supported");
    }
    index = make(ExpressionKind::kTuple, token.line, std::move(items));
  }
  expect_operator("]");
  if (index != nullptr) return make(ExpressionKind::kItem, token.line, nodes(std::move(node), std::move(index)));
  bounds.insert(bounds.begin(), std::move(node));
  return make(ExpressionKind::kSlice, token.line, std::move(bounds));
}

// An index, or null with the three bounds of a slice in `bounds`.
ExpressionPtr ExpressionParser::parse_slice_or_index(std::vector<ExpressionPtr>& bounds) {
  ExpressionPtr first;
  if (!at_operator(":")) {
    first = parse_expression();
    if (!at_operator(":")) return first;
  }
  advance();
  const auto ends = [&] { return at_operator(":") || at_operator("]") || at_operator(","); };
  bounds.clear();
  bounds.push_back(std::move(first));
  bounds.push_back(ends() ? nullptr : parse_expression());
  bounds.push_back(skip_operator(":") && !ends() ? parse_expression() : nullptr);
  return nullptr;
}

CallArguments ExpressionParser::parse_arguments() {
  const Nested nested(*this);
  CallArguments out;
  expect_operator("(");
  const auto require = [&](bool condition) {
    if (!condition) fail("invalid syntax for function call expression");
  };
  bool first = true;
  while (!at_operator(")")) {
    if (!first) {
      expect_operator(",");
      if (at_operator(")")) break;
    }
    first = false;
    if (skip_operator("*")) {
      require(out.spread == nullptr && out.spread_keywords == nullptr);
      out.spread = parse_expression();
    } else if (skip_operator("**")) {
      require(out.spread_keywords == nullptr);
      out.spread_keywords = parse_expression();
    } else if (at(TokenType::kName) && look_ahead().type == TokenType::kOperator && look_ahead().text == "=") {
      require(out.spread_keywords == nullptr);
      const std::string name = advance().text;
      advance();
      out.keywords.emplace_back(name, parse_expression());
    } else {
      require(out.spread == nullptr && out.spread_keywords == nullptr && out.keywords.empty());
      out.positional.push_back(parse_expression());
    }
  }
  expect_operator(")");
  return out;
}

ExpressionPtr ExpressionParser::parse_call(ExpressionPtr node) {
  ExpressionPtr call = make(ExpressionKind::kCall, current().line, nodes(std::move(node)));
  call->arguments = parse_arguments();
  call->depth = std::max(call->depth, deepest(call->arguments) + 1);
  return call;
}

std::string ExpressionParser::parse_dotted_name() {
  std::string name = expect(TokenType::kName).text;
  while (skip_operator(".")) {
    name += '.';
    name += expect(TokenType::kName).text;
  }
  return name;
}

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr subject, bool starts_with_name) {
  while (at_operator("|") || starts_with_name) {
    if (!starts_with_name) advance();
    starts_with_name = false;
    const int line = current().line;
    const std::string name = parse_dotted_name();
    ExpressionPtr node = make(ExpressionKind::kFilter, line, {}, name);
    if (subject != nullptr) node->depth = subject->depth + 1;
    if (node->depth > kMaxExpressionDepth) fail("too many filters in a row");
    node->items.push_back(std::move(subject));
    if (at_operator("(")) node->arguments = parse_arguments();
    node->depth = std::max(node->depth, deepest(node->arguments) + 1);
    if (!in_branch_ && find_filter(name) == nullptr) {
      throw SyntaxFailure(
          fmt::format("the filter '{}' is not known here; known: {}", name, fmt::join(filter_names(), ", ")), line);
    }
    subject = std::move(node);
  }
  return subject;
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr node) {
  const int line = advance().line;
  const bool negated = skip_keyword("not");
  const std::string name = parse_dotted_name();
  ExpressionPtr test = make(ExpressionKind::kTest, line, nodes(std::move(node)), name);
  const bool starts_argument = at(TokenType::kString) || at(TokenType::kInteger) || at(TokenType::kFloat) ||
                               at_operator("[") || at_operator("{") ||
                               (at(TokenType::kName) && !at_keyword("else") && !at_keyword("or") && !at_keyword("and"));
  if (at_operator("(")) {
    test->arguments = parse_arguments();
  } else if (starts_argument) {
    if (at_keyword("is")) fail("You cannot chain multiple tests with is");
    test->arguments.positional.push_back(parse_postfix(parse_primary()));
  }
  test->depth = std::max(test->depth, deepest(test->arguments) + 1);
  if (!in_branch_ && find_test(name) == nullptr) {
    throw SyntaxFailure(fmt::format("the test '{}' is not known here; known: {}", name, fmt::join(test_names(), ", ")),
                        line);
  }
  return negated ? make(ExpressionKind::kUnary, line, nodes(std::move(test)), "not") : std::move(test);
}

}  // namespace deeptitan::jinja
