#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "jinja/builtins.h"
#include "jinja/interpreter.h"
#include "jinja/operators.h"
#include "jinja/text.h"
#include "jinja/unicode.h"

// Filters over text and numbers (jinja2/filters.py), tojson as transformers overrides it, and the table of all filters.

namespace deeptitan::jinja {
namespace {

// The subject as text, charged for what the filter will read and make of it.
std::string subject_text(Interpreter& interpreter, const Value& subject) {
  std::string text = to_text(subject, interpreter.budget());
  interpreter.budget().charge(static_cast<int64_t>(text.size()) * 4);
  return text;
}

template <std::string (*kConvert)(std::string_view)>
Value convert(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments none("this filter", arguments, {});
  return Value::derived(kConvert(subject_text(interpreter, subject)), subject);
}

// Upper-cases the first character of each run between spaces, hyphens and opening brackets; the rest becomes lower
// case.
std::string title_words(std::string_view text) {
  const auto separates = [](char32_t c) {
    return is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  };
  const std::u32string in = decode_utf8(text);
  std::string out;
  for (size_t i = 0; i < in.size();) {
    size_t end = i;
    while (end < in.size() && separates(in[end]) == separates(in[i])) ++end;
    out += to_upper(encode_utf8(in.substr(i, 1))) + to_lower(encode_utf8(in.substr(i + 1, end - i - 1)));
    i = end;
  }
  return out;
}

Value trim(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("trim", arguments, {"chars"});
  const Value whole = to_traced(subject, interpreter.budget());
  const std::string& text = whole.as_string();
  interpreter.budget().charge(static_cast<int64_t>(text.size()) * 4);
  const std::string* set = nullptr;
  if (bound.get(0) != nullptr && !bound[0].is_none()) {
    set = &require_string(bound[0], "the characters to trim");
    interpreter.budget().charge(static_cast<int64_t>(set->size()) * static_cast<int64_t>(text.size() + 1));
  }
  return whole.piece(strip_right(strip_left(text, set), set));
}

Value replace(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("replace", arguments, {"old", "new", "count"}, 2);
  Budget& budget = interpreter.budget();
  const int64_t count = bound.get(2) == nullptr || bound[2].is_none() ? -1 : require_int(bound[2], "count");
  return replace_text(to_traced(subject, budget), to_text(bound[0], budget), to_traced(bound[1], budget), count,
                      budget);
}

// A text, or so many spaces.
std::string indentation_of(const Value& value, const char* what, Budget& budget) {
  if (value.is_string()) return value.as_string();
  const int64_t count = std::max<int64_t>(require_int(value, what), 0);
  budget.charge(count);
  return std::string(static_cast<size_t>(count), ' ');
}

Value indent(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("indent", arguments, {"width", "first", "blank"});
  Budget& budget = interpreter.budget();
  const std::string indentation = indentation_of(bound.get(0) == nullptr ? Value(4) : bound[0], "width", budget);
  // jinja2 adds a line end before it splits, so that a last empty line is kept.
  require_string(subject, "what to indent");
  TracedText with_end = subject.as_text();
  with_end.append("\n");
  const std::vector<std::string_view> lines = split_lines(with_end.bytes(), false, budget);
  TracedText out;
  if (bound.bool_or(1, false)) out.append(indentation);
  for (size_t i = 0; i < lines.size(); ++i) {
    budget.charge(static_cast<int64_t>(indentation.size() + lines[i].size()) + 1);
    if (i > 0) out.append("\n");
    if (i > 0 && (bound.bool_or(2, false) || !lines[i].empty())) out.append(indentation);
    out.append(with_end, static_cast<size_t>(lines[i].data() - with_end.bytes().data()), lines[i].size());
  }
  return out;
}

Value string(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments none("string", arguments, {});
  return to_traced(subject, interpreter.budget());
}

Value safe(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments none("safe", arguments, {});
  TracedText text = to_traced(subject, interpreter.budget());
  text.set_markup(true);
  return text;
}

Value length(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments none("length", arguments, {});
  if (subject.is_string()) interpreter.budget().charge(static_cast<int64_t>(subject.as_string().size()));
  return length_of(subject);
}

Value default_value(Interpreter& /*interpreter*/, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("default", arguments, {"default_value", "boolean"});
  if (!subject.is_undefined() && !(bound.bool_or(1, false) && !subject.truthy())) return subject;
  return bound.get(0) == nullptr ? Value("") : bound[0];
}

int64_t truncate(double value) {
  if (std::isinf(value)) throw Failure("cannot convert float infinity to integer");
  if (std::abs(value) >= 9223372036854775808.0) {
    throw Failure("an integer result does not fit 64 bits; longer ones are not supported");
  }
  return static_cast<int64_t>(value);
}

Value to_int(Interpreter& /*interpreter*/, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("int", arguments, {"default", "base"});
  Value otherwise = bound.get(0) == nullptr ? Value(0) : bound[0];
  if (subject.is_undefined()) throw Failure(subject.undefined_message());
  if (subject.is_int()) return subject.as_int();
  if (subject.is_float()) return std::isnan(subject.as_float()) ? otherwise : Value(truncate(subject.as_float()));
  if (!subject.is_string()) return otherwise;
  const int64_t base = bound.int_or(1, 10);
  if (base != 0 && (base < 2 || base > 36)) return otherwise;
  if (const std::optional<int64_t> value = parse_int(subject.as_string(), static_cast<int>(base))) return *value;
  const std::optional<double> value = parse_float(subject.as_string());
  return !value.has_value() || !std::isfinite(*value) ? otherwise : Value(truncate(*value));
}

Value to_float(Interpreter& /*interpreter*/, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("float", arguments, {"default"});
  Value otherwise = bound.get(0) == nullptr ? Value(0.0) : bound[0];
  if (subject.is_undefined()) throw Failure(subject.undefined_message());
  if (subject.is_number()) return subject.as_float();
  if (!subject.is_string()) return otherwise;
  const std::optional<double> value = parse_float(subject.as_string());
  return value.has_value() ? Value(*value) : otherwise;
}

Value tojson(Interpreter& interpreter, const Value& subject, const Arguments& arguments) {
  const BoundArguments bound("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonOptions options;
  options.ensure_ascii = bound.bool_or(0, false);
  options.sort_keys = bound.bool_or(3, false);
  if (bound.get(1) != nullptr && !bound[1].is_none()) {
    options.indent = indentation_of(bound[1], "indent", interpreter.budget());
    options.item_separator = std::string(1, ',');
  }
  if (bound.get(2) != nullptr && !bound[2].is_none()) {
    const std::vector<Value> pair = iterate(bound[2], interpreter.budget());
    if (pair.size() != 2) throw Failure("separators must be two texts, the one between items and the one after a key");
    options.item_separator = require_string(pair[0], "the separator between items");
    options.key_separator = require_string(pair[1], "the separator after a key");
  }
  return Value::derived(to_json(subject, options, interpreter.budget()), subject);
}

struct NamedFilter {
  std::string_view name;
  Filter filter;
};

constexpr NamedFilter kFilters[] = {
    {"capitalize", convert<capitalize>},
    {"count", length},
    {"d", default_value},
    {"default", default_value},
    {"dictsort", filter_dictsort},
    {"first", filter_first},
    {"float", to_float},
    {"indent", indent},
    {"int", to_int},
    {"items", filter_items},
    {"join", filter_join},
    {"last", filter_last},
    {"length", length},
    {"list", filter_list},
    {"lower", convert<to_lower>},
    {"map", filter_map},
    {"max", filter_max},
    {"min", filter_min},
    {"reject", filter_reject},
    {"rejectattr", filter_rejectattr},
    {"replace", replace},
    {"reverse", filter_reverse},
    {"safe", safe},
    {"select", filter_select},
    {"selectattr", filter_selectattr},
    {"sort", filter_sort},
    {"string", string},
    {"title", convert<title_words>},
    {"tojson", tojson},
    {"trim", trim},
    {"unique", filter_unique},
    {"upper", convert<to_upper>},
};

}  // namespace

Filter find_filter(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kFilters), std::end(kFilters), [&](const NamedFilter& row) { return row.name == name; });
  return found == std::end(kFilters) ? nullptr : found->filter;
}

std::vector<std::string_view> filter_names() {
  return names_of_rows(kFilters);
}

}  // namespace deeptitan::jinja
