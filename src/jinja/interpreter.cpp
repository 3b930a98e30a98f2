#include "jinja/interpreter.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "jinja/builtins.h"
#include "jinja/callables.h"
#include "jinja/operators.h"
#include "jinja/text.h"

namespace deeptitan::jinja {

Interpreter::Entered::Entered(Interpreter& interpreter, std::shared_ptr<Scope> scope)
    : interpreter_(interpreter), previous_(std::exchange(interpreter.scope_, std::move(scope))) {}

Interpreter::Interpreter(const Dict& variables, const RenderOptions& options)
    : variables_(variables), options_(options), budget_(options.limits), scope_(std::make_shared<Scope>(nullptr)) {}

Interpreter::~Interpreter() {
  for (const auto& space : namespaces_) space->clear();
  for (const auto& scope : kept_scopes_) scope->variables.clear();
}

TracedText Interpreter::render(const Body& body) {
  TracedText out;
  output_ = &out;
  run(body);
  return out;
}

Value Interpreter::new_namespace(Dict attributes) {
  budget_.charge(256);
  namespaces_.push_back(std::make_shared<Namespace>(std::move(attributes)));
  return std::shared_ptr<Object>(namespaces_.back());
}

std::string Interpreter::format_time(const std::string& format) const {
  std::tm time{};
  if (options_.now) {
    time = options_.now();
  } else {
    const std::time_t now = std::time(nullptr);
    localtime_r(&now, &time);
  }
  if (format.empty()) return "";
  if (format.size() > 1024) throw Failure("the format of strftime_now is longer than 1024 bytes");
  std::string out(format.size() * 64, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &time));
  return out;
}

Value Interpreter::call_filter(const std::string& name, const Value& subject, const Arguments& arguments) {
  const Filter filter = find_filter(name);
  if (filter == nullptr) {
    throw Failure(fmt::format("the filter '{}' is not known here; known: {}", name, fmt::join(filter_names(), ", ")));
  }
  return filter(*this, subject, arguments);
}

bool Interpreter::call_test(const std::string& name, const Value& subject, const Arguments& arguments) {
  const Test test = find_test(name);
  if (test == nullptr) {
    throw Failure(fmt::format("the test '{}' is not known here; known: {}", name, fmt::join(test_names(), ", ")));
  }
  return test(*this, subject, arguments);
}

void Interpreter::print(const TracedText& text) {
  budget_.charge(static_cast<int64_t>(text.bytes().size()));
  budget_.charge_output(static_cast<int64_t>(text.bytes().size()));
  output_->append(text);
}

Interpreter::Flow Interpreter::run(const Body& body) {
  for (const auto& statement : body) {
    const Flow flow = run(*statement);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run(const Statement& statement) {
  const Budget::Level level(budget_);
  line_ = statement.line;
  budget_.charge(16);
  switch (statement.kind) {
    case StatementKind::kText:
      print(TracedText(statement.text));
      return Flow::kNext;
    case StatementKind::kPrint: {
      const Value value = evaluate(*statement.expression);
      print(value.is_string() ? value.as_text() : to_traced(value, budget_));
      return Flow::kNext;
    }
    case StatementKind::kSet:
      assign(*statement.target, evaluate(*statement.expression));
      return Flow::kNext;
    case StatementKind::kSetBlock:
      return run_set_block(statement);
    case StatementKind::kIf:
      return run_if(statement);
    case StatementKind::kFor:
      return run_for(statement);
    case StatementKind::kMacro:
      define_macro(statement);
      return Flow::kNext;
    case StatementKind::kFilterBlock:
      return run_filter_block(statement);
    case StatementKind::kWith:
      return run_with(statement);
    case StatementKind::kGeneration: {
      const Entered inside(*this, std::make_shared<Scope>(scope_));
      return run(statement.body);
    }
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_if(const Statement& statement) {
  for (const Branch& branch : statement.branches) {
    if (branch.test == nullptr || evaluate(*branch.test).truthy()) return run(branch.body);
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_for(const Statement& statement) {
  std::vector<Value> items = iterate(evaluate(*statement.expression), budget_);
  if (statement.condition != nullptr) {
    std::vector<Value> kept;
    for (Value& item : items) {
      budget_.charge_iteration();
      const Entered inside(*this, std::make_shared<Scope>(scope_));
      assign(*statement.target, item);
      if (evaluate(*statement.condition).truthy()) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  bool completed = false;
  const auto loop = std::make_shared<Loop>(std::move(items));
  for (; !loop->done(); loop->advance()) {
    budget_.charge_iteration();
    const Entered inside(*this, std::make_shared<Scope>(scope_));
    assign(*statement.target, loop->item());
    scope_->variables["loop"] = Value(std::shared_ptr<Object>(loop));
    const Flow flow = run(statement.body);
    completed = completed || flow == Flow::kNext;
    if (flow == Flow::kBreak) break;
  }
  // jinja2 takes the else branch whenever no pass reached the end of the body, be it for want of items or because a
  // break or continue left each of them.
  if (completed) return Flow::kNext;
  const Entered inside(*this, std::make_shared<Scope>(scope_));
  return run(statement.else_body);
}

std::unique_ptr<TracedText> Interpreter::capture(const Body& body, Flow& flow) {
  auto text = std::make_unique<TracedText>();
  TracedText* const outer = std::exchange(output_, text.get());
  const Entered inside(*this, std::make_shared<Scope>(scope_));
  flow = run(body);
  output_ = outer;
  if (flow != Flow::kNext) return nullptr;
  return text;
}

Value Interpreter::filter_chain(const Expression* filter, const Value& subject) {
  if (filter == nullptr) return subject;
  const Value inner = filter_chain(filter->items[0].get(), subject);
  const Arguments arguments = evaluate_arguments(filter->arguments);
  line_ = filter->line;
  return call_filter(filter->name, inner, arguments);
}

Interpreter::Flow Interpreter::run_set_block(const Statement& statement) {
  Flow flow = Flow::kNext;
  const std::unique_ptr<TracedText> text = capture(statement.body, flow);
  if (text != nullptr) assign(*statement.target, filter_chain(statement.expression.get(), Value(std::move(*text))));
  return flow;
}

Interpreter::Flow Interpreter::run_filter_block(const Statement& statement) {
  Flow flow = Flow::kNext;
  const std::unique_ptr<TracedText> text = capture(statement.body, flow);
  if (text != nullptr) {
    print(to_traced(filter_chain(statement.expression.get(), Value(std::move(*text))), budget_));
  }
  return flow;
}

Interpreter::Flow Interpreter::run_with(const Statement& statement) {
  std::vector<Value> values;
  for (const auto& assignment : statement.assignments) values.push_back(evaluate(*assignment.second));
  const Entered inside(*this, std::make_shared<Scope>(scope_));
  for (size_t i = 0; i < values.size(); ++i) assign(*statement.assignments[i].first, values[i]);
  return run(statement.body);
}

void Interpreter::define_macro(const Statement& statement) {
  kept_scopes_.push_back(scope_);
  scope_->variables[statement.text] =
      std::shared_ptr<Object>(std::make_shared<Macro>(statement.text, statement.parameters, statement.body, scope_));
}

TracedText Interpreter::render_macro(const std::vector<Parameter>& parameters, const Body& body,
                                     const std::shared_ptr<Scope>& closure,
                                     std::vector<std::pair<std::string, Value>> bound) {
  TracedText out;
  TracedText* const outer = std::exchange(output_, &out);
  const Entered inside(*this, std::make_shared<Scope>(closure));
  for (auto& one : bound) scope_->variables[one.first] = std::move(one.second);
  for (const Parameter& parameter : parameters) {
    if (scope_->variables.contains(parameter.name)) continue;
    scope_->variables[parameter.name] =
        parameter.default_value != nullptr
            ? evaluate(*parameter.default_value)
            : Value::undefined(fmt::format("parameter '{}' was not provided", parameter.name));
  }
  run(body);
  output_ = outer;
  return out;
}

void Interpreter::assign(const Expression& target, const Value& value) {
  if (target.kind == ExpressionKind::kName) {
    scope_->variables[target.name] = value;
    return;
  }
  if (target.kind == ExpressionKind::kNamespaceField) {
    const Value holder = evaluate_name(target);
    auto* space = dynamic_cast<Namespace*>(holder.as_object().get());
    if (space == nullptr) throw Failure("cannot assign attribute on non-namespace object; make one with namespace()");
    if (target.text.starts_with('_')) {
      throw Failure(
          fmt::format("a namespace cannot store '{}': names that start with an underscore are refused", target.text));
    }
    space->set(target.text, value);
    return;
  }
  const std::vector<Value> parts = iterate(value, budget_);
  if (parts.size() != target.items.size()) {
    throw Failure(fmt::format("{} values cannot be unpacked into {} names", parts.size(), target.items.size()));
  }
  for (size_t i = 0; i < parts.size(); ++i) assign(*target.items[i], parts[i]);
}

}  // namespace deeptitan::jinja
