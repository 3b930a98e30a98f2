#include <algorithm>

#include <fmt/format.h>

#include "jinja/builtins.h"
#include "jinja/callables.h"
#include "jinja/interpreter.h"
#include "jinja/operators.h"
#include "jinja/text.h"

// Interpreter: expressions. line_ is set to a node's line just before its own operation, after its operands are done,
// so that an error names the line of the operator that failed.

namespace deeptitan::jinja {

Value Interpreter::evaluate(const Expression& node) {
  const Budget::Level level(budget_);
  budget_.charge(16);
  switch (node.kind) {
    case ExpressionKind::kConstant:
      return node.constant;
    case ExpressionKind::kName:
    case ExpressionKind::kNamespaceField:
      return evaluate_name(node);
    case ExpressionKind::kList:
      return Value::list(evaluate_all(node.items));
    case ExpressionKind::kTuple:
      return Value::tuple(evaluate_all(node.items));
    case ExpressionKind::kDict:
      return evaluate_dict(node);
    case ExpressionKind::kAttribute: {
      const Value object = evaluate(*node.items[0]);
      line_ = node.line;
      return get_attribute(object, node.name, budget_);
    }
    case ExpressionKind::kItem: {
      const Value object = evaluate(*node.items[0]);
      const Value key = evaluate(*node.items[1]);
      line_ = node.line;
      return get_item(object, key, budget_);
    }
    case ExpressionKind::kSlice:
      return evaluate_slice(node);
    case ExpressionKind::kCall:
      return evaluate_call(node);
    case ExpressionKind::kFilter: {
      const Value subject = evaluate(*node.items[0]);
      const Arguments arguments = evaluate_arguments(node.arguments);
      line_ = node.line;
      return call_filter(node.name, subject, arguments);
    }
    case ExpressionKind::kTest: {
      const Value subject = evaluate(*node.items[0]);
      const Arguments arguments = evaluate_arguments(node.arguments);
      line_ = node.line;
      return call_test(node.name, subject, arguments);
    }
    case ExpressionKind::kUnary:
      return evaluate_unary(node);
    case ExpressionKind::kBinary:
      return evaluate_binary(node);
    case ExpressionKind::kCompare:
      return evaluate_compare(node);
    case ExpressionKind::kAnd: {
      Value left = evaluate(*node.items[0]);
      return left.truthy() ? evaluate(*node.items[1]) : left;
    }
    case ExpressionKind::kOr: {
      Value left = evaluate(*node.items[0]);
      return left.truthy() ? left : evaluate(*node.items[1]);
    }
    case ExpressionKind::kConcat:
      return evaluate_concat(node);
    case ExpressionKind::kConditional:
      if (evaluate(*node.items[0]).truthy()) return evaluate(*node.items[1]);
      if (node.items[2] != nullptr) return evaluate(*node.items[2]);
      return Value::undefined(fmt::format(
          "the inline if-expression on line {} evaluated to false and no else section was defined.", node.line));
  }
  return {};
}

Value Interpreter::evaluate_name(const Expression& node) {
  for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->outer.get()) {
    const auto found = scope->variables.find(node.name);
    if (found != scope->variables.end()) return found->second;
  }
  if (const Value* found = variables_.find(Value(node.name))) return *found;
  line_ = node.line;
  if (const std::unique_ptr<Value> found = find_global(node.name)) return *found;
  return Value::undefined(fmt::format("'{}' is undefined", node.name));
}

std::vector<Value> Interpreter::evaluate_all(const std::vector<ExpressionPtr>& nodes) {
  std::vector<Value> values;
  values.reserve(nodes.size());
  for (const ExpressionPtr& node : nodes) values.push_back(evaluate(*node));
  return values;
}

Value Interpreter::evaluate_dict(const Expression& node) {
  Dict dict;
  for (size_t i = 0; i + 1 < node.items.size(); i += 2) {
    const Value key = evaluate(*node.items[i]);
    Value value = evaluate(*node.items[i + 1]);
    line_ = node.line;
    dict.set(key, std::move(value));
  }
  return Value::dict(std::move(dict));
}

Value Interpreter::evaluate_unary(const Expression& node) {
  const Value operand = evaluate(*node.items[0]);
  line_ = node.line;
  if (node.name == "not") return !operand.truthy();
  return node.name == "-" ? negate(operand) : positive(operand);
}

Value Interpreter::evaluate_binary(const Expression& node) {
  const Value left = evaluate(*node.items[0]);
  const Value right = evaluate(*node.items[1]);
  line_ = node.line;
  if (node.name == "+") return add(left, right, budget_);
  if (node.name == "-") return subtract(left, right);
  if (node.name == "*") return multiply(left, right, budget_);
  if (node.name == "/") return divide(left, right);
  if (node.name == "//") return floor_divide(left, right);
  if (node.name == "%") return modulo(left, right);
  return power(left, right);
}

bool Interpreter::evaluate_compare(const Expression& node) {
  Value left = evaluate(*node.items[0]);
  for (size_t i = 0; i < node.operators.size(); ++i) {
    Value right = evaluate(*node.items[i + 1]);
    line_ = node.line;
    const std::string& symbol = node.operators[i];
    bool holds = false;
    if (symbol == "==") {
      holds = equal(left, right, budget_);
    } else if (symbol == "!=") {
      holds = !equal(left, right, budget_);
    } else if (symbol == "in") {
      holds = contains(right, left, budget_);
    } else if (symbol == "not in") {
      holds = !contains(right, left, budget_);
    } else {
      const bool or_equal = symbol.size() == 2;
      holds = (symbol[0] == '<' ? less_than(left, right, budget_) : less_than(right, left, budget_)) ||
              (or_equal && equal(left, right, budget_));
    }
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::evaluate_concat(const Expression& node) {
  std::vector<Value> parts = evaluate_all(node.items);
  line_ = node.line;
  TracedText out;
  for (const Value& part : parts) out.append(to_traced(part, budget_));
  return out;
}

Value Interpreter::evaluate_slice(const Expression& node) {
  const Value object = evaluate(*node.items[0]);
  std::array<Value, 3> bounds;
  for (size_t i = 0; i < bounds.size(); ++i) {
    if (node.items[i + 1] != nullptr) bounds[i] = evaluate(*node.items[i + 1]);
  }
  line_ = node.line;
  return get_slice(object, bounds[0], bounds[1], bounds[2], budget_);
}

Arguments Interpreter::evaluate_arguments(const CallArguments& arguments) {
  Arguments out;
  out.positional = evaluate_all(arguments.positional);
  for (const auto& [name, node] : arguments.keywords) out.keywords.emplace_back(name, evaluate(*node));
  if (arguments.spread != nullptr) {
    for (Value& item : iterate(evaluate(*arguments.spread), budget_)) out.positional.push_back(std::move(item));
  }
  if (arguments.spread_keywords != nullptr) {
    const Value spread = evaluate(*arguments.spread_keywords);
    if (spread.as_dict() == nullptr)
      throw Failure(fmt::format("argument after ** must be a dict, not '{}'", spread.type_name()));
    budget_.charge(static_cast<int64_t>(spread.as_dict()->size()) * 64);
    for (const auto& [key, value] : spread.as_dict()->items()) {
      out.keywords.emplace_back(require_string(key, "a keyword"), value);
    }
  }
  for (size_t i = 0; i < out.keywords.size(); ++i) {
    const bool twice = std::any_of(out.keywords.begin(), out.keywords.begin() + static_cast<std::ptrdiff_t>(i),
                                   [&](const auto& other) { return other.first == out.keywords[i].first; });
    budget_.charge(static_cast<int64_t>(i) * 8);
    if (twice) throw Failure(fmt::format("keyword argument '{}' is given twice", out.keywords[i].first));
  }
  return out;
}

Value Interpreter::evaluate_call(const Expression& node) {
  const Value callee = evaluate(*node.items[0]);
  const Arguments arguments = evaluate_arguments(node.arguments);
  line_ = node.line;
  if (callee.is_undefined()) throw Failure(callee.undefined_message());
  if (callee.as_object() == nullptr) throw Failure(fmt::format("'{}' object is not callable", callee.type_name()));
  return callee.as_object()->call(*this, arguments);
}

}  // namespace deeptitan::jinja
