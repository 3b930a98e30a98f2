#include "jinja/parser.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "jinja/expression_parser.h"

namespace deeptitan::jinja {
namespace {

bool names_loop(const Expression& target) {
  return (target.kind == ExpressionKind::kName && target.name == "loop") ||
         std::any_of(target.items.begin(), target.items.end(),
                     [](const ExpressionPtr& item) { return names_loop(*item); });
}

class TemplateParser : public ExpressionParser {
 public:
  explicit TemplateParser(std::string_view source) : ExpressionParser(tokenize(source)) {}

  Body parse() {
    Body body = parse_until({});
    if (!at(TokenType::kEnd)) fail("");
    return body;
  }

 private:
  using Words = std::initializer_list<std::string_view>;
  using StatementPtr = std::unique_ptr<Statement>;

  static StatementPtr make(StatementKind kind, int line) {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  // Statements up to the tag that starts with one of `ends`, which is left to be read from its word on; the whole
  // template if there are none.
  Body parse_until(Words ends) {
    const Nested nested(*this);
    Body body;
    while (!at(TokenType::kEnd)) {
      const int line = current().line;
      if (at(TokenType::kData)) {
        body.push_back(make(StatementKind::kText, line));
        body.back()->text = advance().text;
      } else if (at(TokenType::kVariableBegin)) {
        advance();
        body.push_back(parse_print(line));
        expect(TokenType::kVariableEnd);
      } else if (at(TokenType::kBlockBegin)) {
        advance();
        if (std::any_of(ends.begin(), ends.end(), [&](std::string_view word) { return at_keyword(word); })) return body;
        open_ends_.push_back(ends);
        body.push_back(parse_statement());
        open_ends_.pop_back();
        expect(TokenType::kBlockEnd);
      } else {
        fail(fmt::format("unexpected {}", describe()));
      }
    }
    if (ends.size() > 0) fail(fmt::format("the template ends before {}", fmt::join(ends, " or ")));
    return body;
  }

  // The body of a tag: the rest of the tag, then statements up to one of `ends`.
  Body parse_body(Words ends) {
    skip_operator(":");
    expect(TokenType::kBlockEnd);
    return parse_until(ends);
  }

  // As parse_body, for a body that is evaluated in a scope of its own, up to the one word `end`, which is read too.
  Body parse_inner_body(std::string_view end, bool keeps_loop) {
    const int loops = std::exchange(loop_depth_, keeps_loop ? loop_depth_ : 0);
    const bool in_branch = std::exchange(in_branch_, false);
    Body body = parse_body({end});
    loop_depth_ = loops;
    in_branch_ = in_branch;
    advance();
    return body;
  }

  StatementPtr parse_print(int line) {
    StatementPtr print = make(StatementKind::kPrint, line);
    print->expression = parse_tuple({});
    return print;
  }

  StatementPtr parse_statement() {
    if (!at(TokenType::kName)) fail(fmt::format("expected the name of a tag, got {}", describe()));
    const std::string tag = current().text;
    const int line = current().line;
    if (tag == "set") return parse_set(line);
    if (tag == "if") return parse_if(line);
    if (tag == "for") return parse_for(line);
    if (tag == "macro") return parse_macro(line);
    if (tag == "filter") return parse_filter_block(line);
    if (tag == "with") return parse_with(line);
    if (tag == "generation") return parse_generation(line);
    if (tag == "break" || tag == "continue") return parse_loop_control(tag, line);
    fail_tag(tag);
  }

  [[noreturn]] void fail_tag(const std::string& tag) {
    for (std::string_view known :
         {"autoescape", "block", "call", "do", "extends", "from", "import", "include", "print", "trans"}) {
      if (tag == known) fail(fmt::format("the tag '{}' is not supported in chat templates", tag));
    }
    const Words ends = open_ends_.back();
    if (ends.size() == 0) fail(fmt::format("unknown tag '{}'", tag));
    fail(fmt::format("unknown tag '{}'; expected {} first", tag, fmt::join(ends, " or ")));
  }

  StatementPtr parse_set(int line) {
    advance();
    StatementPtr set = make(StatementKind::kSet, line);
    set->target = parse_target(true);
    if (skip_operator("=")) {
      set->expression = parse_tuple({});
      return set;
    }
    set->kind = StatementKind::kSetBlock;
    set->expression = parse_filters(nullptr);
    set->body = parse_inner_body("endset", true);
    return set;
  }

  StatementPtr parse_if(int line) {
    StatementPtr statement = make(StatementKind::kIf, line);
    const bool in_branch = std::exchange(in_branch_, true);
    do {
      advance();
      Branch branch;
      branch.test = parse_tuple({.conditional = false});
      branch.body = parse_body({"elif", "else", "endif"});
      statement->branches.push_back(std::move(branch));
    } while (at_keyword("elif"));
    if (skip_keyword("else")) statement->branches.push_back({nullptr, parse_body({"endif"})});
    advance();
    in_branch_ = in_branch;
    return statement;
  }

  StatementPtr parse_for(int line) {
    advance();
    StatementPtr loop = make(StatementKind::kFor, line);
    loop->target = parse_target(false, {"in"});
    if (names_loop(*loop->target)) throw SyntaxFailure("can't assign to the special loop variable", line);
    if (!skip_keyword("in")) fail(fmt::format("expected 'in', got {}", describe()));
    loop->expression = parse_tuple({.conditional = false, .ends = {"recursive"}});
    if (skip_keyword("if")) loop->condition = parse_expression();
    if (at_keyword("recursive")) fail("recursive loops are not supported; use a macro that calls itself");
    const bool in_branch = std::exchange(in_branch_, false);
    ++loop_depth_;
    loop->body = parse_body({"endfor", "else"});
    --loop_depth_;
    if (advance().text == "else") {
      loop->else_body = parse_body({"endfor"});
      advance();
    }
    in_branch_ = in_branch;
    return loop;
  }

  std::vector<Parameter> parse_parameters() {
    std::vector<Parameter> parameters;
    expect_operator("(");
    while (!at_operator(")")) {
      if (!parameters.empty()) expect_operator(",");
      Parameter parameter;
      parameter.name = expect(TokenType::kName).text;
      if (skip_operator("=")) {
        parameter.default_value = parse_expression();
      } else if (!parameters.empty() && parameters.back().default_value != nullptr) {
        fail("non-default argument follows default argument");
      }
      parameters.push_back(std::move(parameter));
    }
    expect_operator(")");
    return parameters;
  }

  StatementPtr parse_macro(int line) {
    advance();
    StatementPtr macro = make(StatementKind::kMacro, line);
    macro->text = expect(TokenType::kName).text;
    macro->parameters = parse_parameters();
    macro->body = parse_inner_body("endmacro", false);
    return macro;
  }

  StatementPtr parse_filter_block(int line) {
    advance();
    StatementPtr filter = make(StatementKind::kFilterBlock, line);
    filter->expression = parse_filters(nullptr, true);
    filter->body = parse_inner_body("endfilter", true);
    return filter;
  }

  StatementPtr parse_with(int line) {
    advance();
    StatementPtr with = make(StatementKind::kWith, line);
    while (!at(TokenType::kBlockEnd)) {
      if (!with->assignments.empty()) expect_operator(",");
      ExpressionPtr target = parse_target(false);
      expect_operator("=");
      with->assignments.emplace_back(std::move(target), parse_expression());
    }
    with->body = parse_inner_body("endwith", true);
    return with;
  }

  StatementPtr parse_generation(int line) {
    advance();
    StatementPtr generation = make(StatementKind::kGeneration, line);
    generation->body = parse_inner_body("endgeneration", false);
    return generation;
  }

  StatementPtr parse_loop_control(const std::string& tag, int line) {
    if (loop_depth_ == 0) fail(fmt::format("'{}' outside of a loop", tag));
    advance();
    return make(tag == "break" ? StatementKind::kBreak : StatementKind::kContinue, line);
  }

  int loop_depth_ = 0;
  std::vector<Words> open_ends_;
};

}  // namespace

Body parse_template(std::string_view source) {
  return TemplateParser(source).parse();
}

}  // namespace deeptitan::jinja
