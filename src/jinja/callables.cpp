#include "jinja/callables.h"

#include <algorithm>

#include <fmt/format.h>

#include "jinja/builtins.h"
#include "jinja/names.h"
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
  const Names names = names_of(body);
  for (const char* further : {"caller", "kwargs", "varargs"}) {
    const bool is_own = names.assigned.contains(further) ||
                        std::any_of(parameters_.begin(), parameters_.end(),
                                    [&](const Parameter& parameter) { return parameter.name == further; });
    if (names.read.contains(further) && !is_own) {
      throw Failure(
          fmt::format("'{}' inside of a macro is not known here; give macro '{}' parameters", further, name_));
    }
  }
}

std::string Macro::text(Budget& /*budget*/) const {
  return fmt::format("<Macro {}>", string_repr(name_));
}

std::unique_ptr<Value> Macro::attribute(const std::string& name, Budget& /*budget*/) {
  for (const char* unknown : {"arguments", "caller", "catch_kwargs", "catch_varargs", "name"}) {
    if (name == unknown) throw Failure(fmt::format("'{}' of a macro is not known here", name));
  }
  return nullptr;
}

Value Macro::call(Interpreter& interpreter, const Arguments& arguments) {
  const Budget::Level level(interpreter.budget());
  const size_t given = arguments.positional.size();
  if (given > parameters_.size()) {
    throw Failure(fmt::format("macro '{}' takes not more than {} argument(s)", name_, parameters_.size()));
  }
  std::vector<std::pair<std::string, Value>> bound;
  for (size_t i = 0; i < given; ++i) bound.emplace_back(parameters_[i].name, arguments.positional[i]);
  for (const auto& [name, value] : arguments.keywords) {
    const bool free = std::any_of(parameters_.begin() + static_cast<std::ptrdiff_t>(given), parameters_.end(),
                                  [&, &key = name](const Parameter& parameter) { return parameter.name == key; });
    if (!free) throw Failure(fmt::format("macro '{}' takes no keyword argument '{}'", name_, name));
    bound.emplace_back(name, value);
  }
  return interpreter.render_macro(parameters_, body_, closure_, std::move(bound));
}

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
  if (name == "previtem") return some(index == 0 ? Value::undefined("there is no previous item") : items_[index_ - 1]);
  if (name == "nextitem")
    return some(index + 1 == length ? Value::undefined("there is no next item") : items_[index_ + 1]);
  for (const char* unknown : {"changed", "cycle", "depth", "depth0"}) {
    if (name == unknown) {
      throw Failure(
          fmt::format("'{}' of 'loop' is not known here; known: first, index, index0, last, length, nextitem, "
                      "previtem, revindex, revindex0",
                      name));
    }
  }
  return nullptr;
}

Value Loop::call(Interpreter& /*interpreter*/, const Arguments& /*arguments*/) {
  throw Failure("The loop must have the 'recursive' marker to be called recursively.");
}

}  // namespace deeptitan::jinja
