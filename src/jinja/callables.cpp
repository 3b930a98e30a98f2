#include "jinja/callables.h"

#include <algorithm>

#include <fmt/format.h>

#include "jinja/builtins.h"
#include "jinja/names.h"
#include "jinja/operators.h"
#include "jinja/text.h"

namespace deeptitan::jinja {
namespace {

std::unique_ptr<Value> some(Value value) {
  return std::make_unique<Value>(std::move(value));
}

}  // namespace

Macro::Macro(std::string name, const std::vector<Parameter>& parameters, const Body& body,
             std::shared_ptr<Scope> closure)
    : name_(std::move(name)), parameters_(parameters), body_(body), closure_(std::move(closure)) {
  const std::set<std::string> names = names_of(body).read;
  uses_varargs_ = names.contains("varargs");
  uses_kwargs_ = names.contains("kwargs");
  uses_caller_ = names.contains("caller");
}

std::string Macro::text(Budget& /*budget*/) const {
  return fmt::format("<Macro {}>", string_repr(name_));
}

std::unique_ptr<Value> Macro::attribute(const std::string& name, Budget& /*budget*/) {
  if (name == "name") return some(name_);
  if (name == "catch_kwargs") return some(uses_kwargs_);
  if (name == "catch_varargs") return some(uses_varargs_);
  if (name == "caller") return some(uses_caller_);
  if (name != "arguments") return nullptr;
  std::vector<Value> names;
  for (const Parameter& parameter : parameters_) names.emplace_back(parameter.name);
  return some(Value::tuple(std::move(names)));
}

Value Macro::call(Interpreter& interpreter, const Arguments& arguments) {
  const Budget::Level level(interpreter.budget());
  std::vector<std::pair<std::string, Value>> bound;
  const size_t taken = std::min(arguments.positional.size(), parameters_.size());
  for (size_t i = 0; i < taken; ++i) bound.emplace_back(parameters_[i].name, arguments.positional[i]);
  Dict further;
  const Value* caller = nullptr;
  for (const auto& [name, value] : arguments.keywords) {
    const auto found = std::find_if(parameters_.begin() + static_cast<std::ptrdiff_t>(taken), parameters_.end(),
                                    [&, &key = name](const Parameter& parameter) { return parameter.name == key; });
    if (found != parameters_.end()) {
      bound.emplace_back(name, value);
    } else if (name == "caller" && uses_caller_) {
      caller = &value;
    } else if (uses_kwargs_) {
      further.set(Value(name), value);
    } else {
      throw Failure(fmt::format("macro '{}' takes no keyword argument '{}'", name_, name));
    }
  }
  if (arguments.positional.size() > taken && !uses_varargs_) {
    throw Failure(fmt::format("macro '{}' takes not more than {} argument(s)", name_, parameters_.size()));
  }
  const auto is_parameter = [&](std::string_view name) {
    return std::any_of(parameters_.begin(), parameters_.end(), [&](const Parameter& p) { return p.name == name; });
  };
  if (uses_caller_ && !is_parameter("caller")) {
    bound.emplace_back("caller", caller == nullptr ? Value::undefined("No caller defined") : *caller);
  }
  if (uses_kwargs_ && !is_parameter("kwargs")) bound.emplace_back("kwargs", Value::dict(std::move(further)));
  if (uses_varargs_ && !is_parameter("varargs")) {
    bound.emplace_back("varargs", Value::tuple({arguments.positional.begin() + static_cast<std::ptrdiff_t>(taken),
                                                arguments.positional.end()}));
  }
  return interpreter.render_macro(parameters_, body_, closure_, std::move(bound));
}

namespace {

Value cycle_method(Interpreter& /*interpreter*/, const Value& self, const Arguments& arguments) {
  return static_cast<const Loop&>(*self.as_object()).cycle(arguments);
}

Value changed_method(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return static_cast<Loop&>(*self.as_object()).changed(arguments, interpreter.budget());
}

}  // namespace

std::string Loop::text(Budget& /*budget*/) const {
  return fmt::format("<LoopContext {}/{}>", index_ + 1, items_.size());
}

std::unique_ptr<Value> Loop::attribute(const std::string& name, Budget& /*budget*/) {
  const auto index = static_cast<int64_t>(index_);
  const auto length = static_cast<int64_t>(items_.size());
  if (name == "index") return some(index + 1);
  if (name == "index0") return some(index);
  if (name == "revindex") return some(length - index);
  if (name == "revindex0") return some(length - index - 1);
  if (name == "first") return some(index == 0);
  if (name == "last") return some(index + 1 == length);
  if (name == "length") return some(length);
  if (name == "depth") return some(1);
  if (name == "depth0") return some(0);
  if (name == "previtem") return some(index == 0 ? Value::undefined("there is no previous item") : items_[index_ - 1]);
  if (name == "nextitem")
    return some(index + 1 == length ? Value::undefined("there is no next item") : items_[index_ + 1]);
  // A bound method keeps its loop alive by a shared pointer of its own.
  if (name != "cycle" && name != "changed") return nullptr;
  const Function::Body body = name == "cycle" ? cycle_method : changed_method;
  const Value self = std::shared_ptr<Object>(shared_from_this());
  return some(std::shared_ptr<Object>(std::make_shared<Function>(name, body, self)));
}

Value Loop::call(Interpreter& /*interpreter*/, const Arguments& /*arguments*/) {
  throw Failure("The loop must have the 'recursive' marker to be called recursively.");
}

Value Loop::cycle(const Arguments& arguments) const {
  if (arguments.positional.empty()) throw Failure("no items for cycling given");
  return arguments.positional[index_ % arguments.positional.size()];
}

bool Loop::changed(const Arguments& arguments, Budget& budget) {
  const bool same = last_ != nullptr && last_->size() == arguments.positional.size() &&
                    std::equal(last_->begin(), last_->end(), arguments.positional.begin(),
                               [&](const Value& a, const Value& b) { return equal(a, b, budget); });
  last_ = std::make_unique<std::vector<Value>>(arguments.positional);
  return !same;
}

}  // namespace deeptitan::jinja
