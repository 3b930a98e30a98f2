#include <algorithm>
#include <functional>
#include <optional>

#include <fmt/format.h>

#include "jinja/builtins.h"
#include "jinja/interpreter.h"
#include "jinja/operators.h"
#include "jinja/text.h"
#include "jinja/unicode.h"

// Filters over lists and dicts (jinja2/filters.py). What is a generator there is an Iterator here, made at once.

namespace deeptitan::jinja {
namespace {

using Getter = std::function<Value(const Value&)>;

Value ignore_case(const Value& value, Budget& budget) {
  if (!value.is_string()) return value;
  budget.charge(static_cast<int64_t>(value.as_string().size()) * 4);
  return to_lower(value.as_string());
}

std::vector<std::string> split_on(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

// The function that looks `attribute` up: "a.0.b" goes through several items, digits being indices.
Getter attribute_getter(const Value* attribute, const Value* otherwise, Budget& budget) {
  if (attribute == nullptr || attribute->is_none()) return [](const Value& item) { return item; };
  std::vector<Value> path;
  if (attribute->is_string()) {
    for (const std::string& part : split_on(attribute->as_string(), '.')) {
      const bool index = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
      path.push_back(index ? Value(*parse_int(part, 10)) : Value(part));
    }
  } else {
    path.push_back(*attribute);
  }
  const std::optional<Value> fallback =
      otherwise == nullptr || otherwise->is_none() ? std::nullopt : std::optional<Value>(*otherwise);
  return [path, fallback, &budget](const Value& item) {
    Value found = item;
    for (const Value& part : path) {
      found = get_item(found, part, budget);
      if (fallback.has_value() && found.is_undefined()) found = *fallback;
    }
    return found;
  };
}

Value iterator(std::vector<Value> items, const char* type = "generator") {
  return std::shared_ptr<Object>(std::make_shared<Iterator>(std::move(items), type));
}

// Indices of `keys` in order; equal keys keep the order they came in, reversed or not.
std::vector<size_t> sorted_order(const std::vector<Value>& keys, bool reverse, Budget& budget) {
  std::vector<size_t> order(keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return reverse ? less_than(keys[b], keys[a], budget) : less_than(keys[a], keys[b], budget);
  });
  return order;
}

Value take_sorted(const std::vector<Value>& items, const std::vector<Value>& keys, bool reverse, Budget& budget) {
  std::vector<Value> out;
  for (size_t i : sorted_order(keys, reverse, budget)) out.push_back(items[i]);
  return Value::list(std::move(out));
}

template <bool kLargest>
Value extreme(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound(kLargest ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  Budget& budget = interpreter.budget();
  const std::vector<Value> items = iterate(subject, budget);
  if (items.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  const Getter getter = attribute_getter(bound.get(1), nullptr, budget);
  const auto key = [&](const Value& item) {
    return bound.bool_or(0, false) ? getter(item) : ignore_case(getter(item), budget);
  };
  size_t best = 0;
  Value best_key = key(items[0]);
  for (size_t i = 1; i < items.size(); ++i) {
    const Value candidate = key(items[i]);
    if (kLargest ? less_than(best_key, candidate, budget) : less_than(candidate, best_key, budget)) {
      best = i;
      best_key = candidate;
    }
  }
  return items[best];
}

// select and its three kin: [attribute,] [test, arguments of the test...].
template <bool kKeep, bool kByAttribute>
Value choose(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  if (!subject.truthy()) return iterator({});
  const size_t first = kByAttribute ? 1 : 0;
  if (kByAttribute && arguments.positional.empty()) throw Failure("Missing parameter for attribute name");
  const Getter getter =
      attribute_getter(kByAttribute ? arguments.positional.data() : nullptr, nullptr, interpreter.budget());
  Arguments rest;
  std::string test;
  if (arguments.positional.size() > first) {
    test = require_string(arguments.positional[first], "the name of a test");
    rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(first) + 1,
                           arguments.positional.end());
    rest.keywords = arguments.keywords;
  }
  std::vector<Value> kept;
  for (const Value& item : iterate(subject, interpreter.budget())) {
    const Value value = getter(item);
    const bool passes = test.empty() ? value.truthy() : interpreter.call_test(test, value, rest);
    if (passes == kKeep) kept.push_back(item);
  }
  return iterator(std::move(kept));
}

}  // namespace

Value filter_sort(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  Budget& budget = interpreter.budget();
  std::vector<Getter> getters;
  if (bound.get(2) != nullptr && bound[2].is_string()) {
    for (const std::string& attribute : split_on(bound[2].as_string(), ',')) {
      const Value name(attribute);
      getters.push_back(attribute_getter(&name, nullptr, budget));
    }
  } else {
    getters.push_back(attribute_getter(bound.get(2), nullptr, budget));
  }
  const std::vector<Value> items = iterate(subject, budget);
  std::vector<Value> keys;
  for (const Value& item : items) {
    std::vector<Value> parts;
    parts.reserve(getters.size());
    for (const Getter& getter : getters) {
      parts.push_back(bound.bool_or(1, false) ? getter(item) : ignore_case(getter(item), budget));
    }
    keys.push_back(Value::list(std::move(parts)));
  }
  return take_sorted(items, keys, bound.bool_or(0, false), budget);
}

Value filter_dictsort(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const Dict* dict = subject.as_dict();
  if (subject.is_undefined()) throw Failure(subject.undefined_message());
  if (dict == nullptr) throw Failure(fmt::format("dictsort needs a dict, not '{}'", subject.type_name()));
  const std::string by = bound.get(1) == nullptr ? "key" : require_string(bound[1], "the 'by' of dictsort");
  if (by != "key" && by != "value") throw Failure("You can only sort by either \"key\" or \"value\"");
  std::vector<Value> items;
  std::vector<Value> keys;
  interpreter.budget().charge(static_cast<int64_t>(dict->size()) * 128);
  for (const auto& [name, value] : dict->items()) {
    const Value& key = by == "key" ? name : value;
    items.push_back(Value::tuple({name, value}));
    keys.push_back(bound.bool_or(0, false) ? key : ignore_case(key, interpreter.budget()));
  }
  return take_sorted(items, keys, bound.bool_or(2, false), interpreter.budget());
}

Value filter_unique(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("unique", arguments, {"case_sensitive", "attribute"});
  Budget& budget = interpreter.budget();
  const Getter getter = attribute_getter(bound.get(1), nullptr, budget);
  Dict seen;
  std::vector<Value> kept;
  for (const Value& item : iterate(subject, budget)) {
    const Value key = bound.bool_or(0, false) ? getter(item) : ignore_case(getter(item), budget);
    if (seen.find(key) != nullptr) continue;
    seen.set(key, Value(true));
    kept.push_back(item);
  }
  return iterator(std::move(kept));
}

Value filter_min(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  return extreme<false>(interpreter, subject, arguments);
}
Value filter_max(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  return extreme<true>(interpreter, subject, arguments);
}

Value filter_map(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  if (!subject.truthy()) return iterator({});
  std::vector<Value> out;
  const std::vector<Value> items = iterate(subject, interpreter.budget());
  if (arguments.positional.empty()) {
    const BoundArguments bound("map", arguments, {"attribute", "default"});
    if (bound.get(0) == nullptr) throw Failure("map requires a filter argument");
    const Getter getter = attribute_getter(bound.get(0), bound.get(1), interpreter.budget());
    for (const Value& item : items) out.push_back(getter(item));
    return iterator(std::move(out));
  }
  const std::string& name = require_string(arguments.positional[0], "the filter of map");
  Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()}, arguments.keywords};
  for (const Value& item : items) out.push_back(interpreter.call_filter(name, item, rest));
  return iterator(std::move(out));
}

Value filter_select(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  return choose<true, false>(interpreter, subject, arguments);
}
Value filter_reject(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  return choose<false, false>(interpreter, subject, arguments);
}
Value filter_selectattr(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  return choose<true, true>(interpreter, subject, arguments);
}
Value filter_rejectattr(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  return choose<false, true>(interpreter, subject, arguments);
}

Value filter_join(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("join", arguments, {"d", "attribute"});
  Budget& budget = interpreter.budget();
  const Getter getter = attribute_getter(bound.get(1), nullptr, budget);
  const TracedText separator = bound.get(0) == nullptr ? TracedText() : to_traced(bound[0], budget);
  TracedText out;
  bool first = true;
  for (const Value& item : iterate(subject, budget)) {
    if (!first) {
      budget.charge(static_cast<int64_t>(separator.bytes().size()));
      out.append(separator);
    }
    out.append(to_traced(getter(item), budget));
    first = false;
  }
  return out;
}

Value filter_first(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments none("first", arguments, {});
  std::unique_ptr<Value> found;
  if (auto* taken = dynamic_cast<Iterator*>(subject.as_object().get())) {
    found = taken->take_one();
  } else {
    std::vector<Value> items = iterate(subject, interpreter.budget());
    if (!items.empty()) found = std::make_unique<Value>(std::move(items.front()));
  }
  return found == nullptr ? Value::undefined("No first item, sequence was empty.") : *found;
}

Value filter_last(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments none("last", arguments, {});
  if (subject.as_object() != nullptr) {
    throw Failure(fmt::format("'{}' object is not reversible; use |list before |last", subject.type_name()));
  }
  std::vector<Value> items = iterate(subject, interpreter.budget());
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value filter_list(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments none("list", arguments, {});
  return Value::list(iterate(subject, interpreter.budget()));
}

Value filter_items(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments none("items", arguments, {});
  if (subject.is_undefined()) return iterator({});
  const Dict* dict = subject.as_dict();
  if (dict == nullptr) throw Failure("Can only get item pairs from a mapping.");
  interpreter.budget().charge(static_cast<int64_t>(dict->size()) * 64);
  std::vector<Value> items;
  for (const auto& [key, value] : dict->items()) items.push_back(Value::tuple({key, value}));
  return iterator(std::move(items));
}

Value filter_reverse(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments none("reverse", arguments, {});
  std::vector<Value> items = iterate(subject, interpreter.budget());
  std::reverse(items.begin(), items.end());
  if (subject.is_string()) {
    std::string out;
    for (const Value& item : items) out += item.as_string();
    return Value::derived(std::move(out), subject);
  }
  // Python reverses a generator by way of a list, and everything else by a reverse iterator.
  if (subject.as_object() != nullptr) return Value::list(std::move(items));
  return iterator(std::move(items), "reversed");
}

}  // namespace deeptitan::jinja
