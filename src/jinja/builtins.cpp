#include "jinja/builtins.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "jinja/interpreter.h"
#include "jinja/operators.h"
#include "jinja/text.h"

namespace deeptitan::jinja {
namespace {

// The rest of Python's public names on each type. They shadow a dict's keys and would work in Python, so asking for one
// is an error that says so, never a silent "undefined".
constexpr std::string_view kUnsupportedOfString[] = {
    "casefold", "center",     "encode",   "expandtabs",   "format_map", "isalnum",   "isalpha",
    "isascii",  "isdecimal",  "isdigit",  "isidentifier", "islower",    "isnumeric", "isprintable",
    "isspace",  "istitle",    "isupper",  "ljust",        "maketrans",  "partition", "rindex",
    "rjust",    "rpartition", "swapcase", "translate",    "zfill"};
constexpr std::string_view kUnsupportedOfNumber[] = {
    "as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator", "fromhex", "from_bytes", "hex", "imag",
    "is_integer",       "numerator", "real",       "to_bytes"};
constexpr std::string_view kUnsupportedOfDict[] = {"fromkeys"};
constexpr std::string_view kUnsupportedOfView[] = {"isdisjoint", "mapping"};

// What would change a list or a dict, which a chat template may not (ImmutableSandboxedEnvironment).
constexpr std::string_view kMutatorsOfList[] = {"append", "clear",  "extend",  "insert",
                                                "pop",    "remove", "reverse", "sort"};
constexpr std::string_view kMutatorsOfDict[] = {"clear", "pop", "popitem", "setdefault", "update"};

template <size_t kCount>
bool holds(const std::string_view (&names)[kCount], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

Value dict_view(const Dict& dict, SequenceKind kind, Budget& budget) {
  budget.charge(static_cast<int64_t>(dict.size()) * 64);
  Sequence view;
  view.kind = kind;
  for (const auto& [key, value] : dict.items()) {
    view.items.push_back(kind == SequenceKind::kDictKeys     ? key
                         : kind == SequenceKind::kDictValues ? value
                                                             : Value::tuple({key, value}));
  }
  return Value::sequence(std::move(view));
}

template <SequenceKind kKind>
Value view_method(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const BoundArguments none("this method", arguments, {});
  return dict_view(*self.as_dict(), kKind, interpreter.budget());
}

Value get_method(Interpreter& /*interpreter*/, const Value& self, const Arguments& arguments) {
  const BoundArguments bound("get", arguments, {"key", "default"}, 1);
  if (const Value* found = self.as_dict()->find(bound[0])) return *found;
  return bound.get(1) == nullptr ? Value() : bound[1];
}

// Values are immutable, so a copy is the value itself.
Value copy_method(Interpreter& /*interpreter*/, const Value& self, const Arguments& arguments) {
  const BoundArguments none("copy", arguments, {});
  return self;
}

Value count_method(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const BoundArguments bound("count", arguments, {"value"}, 1);
  const std::vector<Value>& items = self.as_sequence()->items;
  return static_cast<int64_t>(std::count_if(
      items.begin(), items.end(), [&](const Value& item) { return equal(item, bound[0], interpreter.budget()); }));
}

Value index_method(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const BoundArguments bound("index", arguments, {"value"}, 1);
  const std::vector<Value>& items = self.as_sequence()->items;
  const auto found = std::find_if(items.begin(), items.end(),
                                  [&](const Value& item) { return equal(item, bound[0], interpreter.budget()); });
  if (found == items.end()) throw Failure(fmt::format("{} is not in list", to_repr(bound[0], interpreter.budget())));
  return static_cast<int64_t>(found - items.begin());
}

constexpr Method kDictMethods[] = {
    {"copy", copy_method},
    {"get", get_method},
    {"items", view_method<SequenceKind::kDictItems>},
    {"keys", view_method<SequenceKind::kDictKeys>},
    {"values", view_method<SequenceKind::kDictValues>},
};
constexpr Method kSequenceMethods[] = {{"count", count_method}, {"index", index_method}};

template <size_t kCount>
Function::Body find_method(const Method (&methods)[kCount], std::string_view name) {
  const auto* found =
      std::find_if(std::begin(methods), std::end(methods), [&](const Method& m) { return m.name == name; });
  return found == std::end(methods) ? nullptr : found->body;
}

std::unique_ptr<Value> bind_method(Function::Body body, const Value& self, const std::string& name) {
  if (body == nullptr) return nullptr;
  return std::make_unique<Value>(std::make_shared<Function>(name, body, self));
}

std::unique_ptr<Value> forbidden(const Value& self, const std::string& name) {
  return std::make_unique<Value>(
      Value::undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, self.type_name())));
}

[[noreturn]] void fail_unsupported(const Value& self, const std::string& name, std::string_view known = "") {
  throw Failure(fmt::format("'{}' of '{}' is not known here{}{}", name, self.type_name(),
                            known.empty() ? "" : "; known: ", known));
}

std::unique_ptr<Value> sequence_attribute(const Value& self, const Sequence& sequence, const std::string& name) {
  const bool is_list = sequence.kind == SequenceKind::kList;
  if (is_list && holds(kMutatorsOfList, name)) return forbidden(self, name);
  if (is_list && name == "copy") return bind_method(copy_method, self, name);
  if (sequence.kind == SequenceKind::kRange) {
    if (name == "start") return std::make_unique<Value>(sequence.range_start);
    if (name == "stop") return std::make_unique<Value>(sequence.range_stop);
    if (name == "step") return std::make_unique<Value>(sequence.range_step);
  }
  if (!sequence.indexable()) {
    if (holds(kUnsupportedOfView, name)) fail_unsupported(self, name);
    return nullptr;
  }
  return bind_method(find_method(kSequenceMethods, name), self, name);
}

Value make_range(Interpreter& interpreter, const Value& /*self*/, const Arguments& arguments) {
  constexpr int64_t kLongestRange = 100'000;  // the sandbox's MAX_RANGE
  const BoundArguments bound("range", arguments, {"start", "stop", "step"}, 1);
  Sequence range;
  range.kind = SequenceKind::kRange;
  const bool single = bound.get(1) == nullptr;
  range.range_start = single ? 0 : require_int(bound[0], "the start of range");
  range.range_stop = require_int(single ? bound[0] : bound[1], "the end of range");
  range.range_step = bound.int_or(2, 1);
  if (range.range_step == 0) throw Failure("range() arg 3 must not be zero");
  for (int64_t i = range.range_start; range.range_step > 0 ? i < range.range_stop : i > range.range_stop;) {
    if (static_cast<int64_t>(range.items.size()) == kLongestRange) {
      throw Failure(fmt::format("Range too big. The sandbox blocks ranges larger than {}.", kLongestRange));
    }
    interpreter.budget().charge(32);
    range.items.emplace_back(i);
    if (__builtin_add_overflow(i, range.range_step, &i)) break;
  }
  return Value::sequence(std::move(range));
}

Value make_namespace(Interpreter& interpreter, const Value& /*self*/, const Arguments& arguments) {
  return interpreter.new_namespace(make_dict(arguments, interpreter.budget()));
}

Value make_dict_value(Interpreter& interpreter, const Value& /*self*/, const Arguments& arguments) {
  return Value::dict(make_dict(arguments, interpreter.budget()));
}

Value raise_exception(Interpreter& interpreter, const Value& /*self*/, const Arguments& arguments) {
  const BoundArguments bound("raise_exception", arguments, {"message"}, 1);
  throw Failure(to_text(bound[0], interpreter.budget()));
}

Value strftime_now(Interpreter& interpreter, const Value& /*self*/, const Arguments& arguments) {
  const BoundArguments bound("strftime_now", arguments, {"format"}, 1);
  return interpreter.format_time(require_string(bound[0], "the format of strftime_now"));
}

constexpr Method kGlobals[] = {
    {"dict", make_dict_value}, {"namespace", make_namespace},  {"raise_exception", raise_exception},
    {"range", make_range},     {"strftime_now", strftime_now},
};

}  // namespace

std::unique_ptr<Value> find_global(std::string_view name) {
  if (name == "cycler" || name == "joiner" || name == "lipsum") {
    throw Failure(
        fmt::format("the function '{}' is not known here; known: {}", name, fmt::join(names_of_rows(kGlobals), ", ")));
  }
  return bind_method(find_method(kGlobals, name), Value(), std::string(name));
}

std::unique_ptr<Value> python_attribute(const Value& self, const std::string& name, Budget& budget) {
  if (const auto& object = self.as_object()) return object->attribute(name, budget);
  // Every Python object has names with two underscores, and the sandbox hides them all.
  if (name.starts_with("__")) return forbidden(self, name);
  if (self.is_string()) {
    if (holds(kUnsupportedOfString, name)) {
      fail_unsupported(self, name, fmt::format("{}", fmt::join(string_method_names(), ", ")));
    }
    return bind_method(find_string_method(name), self, name);
  }
  if (self.as_dict() != nullptr) {
    if (holds(kMutatorsOfDict, name)) return forbidden(self, name);
    if (holds(kUnsupportedOfDict, name)) fail_unsupported(self, name);
    return bind_method(find_method(kDictMethods, name), self, name);
  }
  if (const Sequence* sequence = self.as_sequence()) return sequence_attribute(self, *sequence, name);
  if (self.is_number() && holds(kUnsupportedOfNumber, name)) fail_unsupported(self, name);
  return nullptr;
}

BoundArguments::BoundArguments(std::string_view function, const Arguments& arguments,
                               std::initializer_list<const char*> parameters, size_t required)
    : parameters_(parameters), bound_(parameters.size(), nullptr) {
  if (arguments.positional.size() > parameters_.size()) {
    throw Failure(fmt::format("{} takes at most {} arguments, not {}", function, parameters_.size(),
                              arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) bound_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.keywords) {
    const auto found = std::find(parameters_.begin(), parameters_.end(), name);
    if (found == parameters_.end()) throw Failure(fmt::format("{} has no parameter '{}'", function, name));
    const Value*& place = bound_[static_cast<size_t>(found - parameters_.begin())];
    if (place != nullptr) throw Failure(fmt::format("{} got two values for '{}'", function, name));
    place = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (bound_[i] == nullptr) throw Failure(fmt::format("{} needs an argument '{}'", function, parameters_[i]));
  }
}

int64_t BoundArguments::int_or(size_t parameter, int64_t otherwise) const {
  return bound_[parameter] == nullptr ? otherwise : require_int(*bound_[parameter], parameters_[parameter]);
}

bool BoundArguments::bool_or(size_t parameter, bool otherwise) const {
  return bound_[parameter] == nullptr ? otherwise : bound_[parameter]->truthy();
}

Dict make_dict(const Arguments& arguments, Budget& budget) {
  Dict dict;
  if (arguments.positional.size() > 1) throw Failure("dict expected at most 1 argument");
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (const Dict* other = source.as_dict()) {
      budget.charge(static_cast<int64_t>(other->size()) * 64);
      dict = *other;
    } else {
      for (const Value& item : iterate(source, budget)) {
        const std::vector<Value> pair = iterate(item, budget);
        if (pair.size() != 2) throw Failure("dict needs pairs of a key and a value");
        dict.set(pair[0], pair[1]);
      }
    }
  }
  budget.charge(static_cast<int64_t>(arguments.keywords.size()) * 64);
  for (const auto& [name, value] : arguments.keywords) dict.set(Value(name), value);
  return dict;
}

}  // namespace deeptitan::jinja
