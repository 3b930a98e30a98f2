#include "jinja/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "core/utf8.h"
#include "jinja/operators.h"
#include "jinja/unicode.h"

namespace deeptitan::jinja {
namespace {

void append_repr(std::string& out, const Value& value, Budget& budget);

void append_joined(std::string& out, const std::vector<Value>& items, Budget& budget) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr(out, items[i], budget);
  }
}

void append_sequence(std::string& out, const Sequence& sequence, Budget& budget) {
  switch (sequence.kind) {
    case SequenceKind::kList:
      out += '[';
      append_joined(out, sequence.items, budget);
      out += ']';
      return;
    case SequenceKind::kTuple:
      out += '(';
      append_joined(out, sequence.items, budget);
      out += sequence.items.size() == 1 ? ",)" : ")";
      return;
    case SequenceKind::kRange:
      out += fmt::format("range({}, {}", sequence.range_start, sequence.range_stop);
      out += sequence.range_step == 1 ? ")" : fmt::format(", {})", sequence.range_step);
      return;
    case SequenceKind::kDictKeys:
    case SequenceKind::kDictValues:
    case SequenceKind::kDictItems:
      out += Value::sequence(sequence).type_name() + "([";
      append_joined(out, sequence.items, budget);
      out += "])";
      return;
  }
}

void append_repr(std::string& out, const Value& value, Budget& budget) {
  const Budget::Level level(budget);
  const size_t before = out.size();
  if (value.is_undefined()) {
    out += "Undefined";
  } else if (value.is_none()) {
    out += "None";
  } else if (value.is_bool()) {
    out += value.as_bool() ? "True" : "False";
  } else if (value.is_int()) {
    out += fmt::format("{}", value.as_int());
  } else if (value.is_float()) {
    out += float_repr(value.as_float());
  } else if (value.is_string()) {
    out += string_repr(value.as_string());
  } else if (const Sequence* sequence = value.as_sequence()) {
    append_sequence(out, *sequence, budget);
  } else if (const Dict* dict = value.as_dict()) {
    out += '{';
    for (size_t i = 0; i < dict->items().size(); ++i) {
      if (i > 0) out += ", ";
      append_repr(out, dict->items()[i].first, budget);
      out += ": ";
      append_repr(out, dict->items()[i].second, budget);
    }
    out += '}';
  } else {
    out += value.as_object()->text(budget);
  }
  budget.charge((value.depth() == 0 ? static_cast<int64_t>(out.size() - before) : 0) + 64);
}

// The lone surrogate pairs of \uXXXX escapes for a character beyond the basic plane.
void append_ascii_escape(std::string& out, char32_t c) {
  if (c < 0x10000) {
    out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
  } else {
    const uint32_t rest = static_cast<uint32_t>(c) - 0x10000;
    out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
  }
}

void append_json_string(std::string& out, std::string_view text, bool ensure_ascii) {
  out += '"';
  while (!text.empty()) {
    const Utf8Unit unit = read_utf8_unit(text);
    switch (unit.code_point) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\b':
        out += "\\b";
        break;
      default:
        if (unit.code_point < 0x20 || (ensure_ascii && unit.code_point > 0x7E)) {
          append_ascii_escape(out, unit.code_point);
        } else {
          out.append(text.substr(0, unit.length));
        }
    }
    text.remove_prefix(unit.length);
  }
  out += '"';
}

std::string json_number(const Value& value) {
  if (value.is_bool()) return value.as_bool() ? "true" : "false";
  if (value.is_int()) return fmt::format("{}", value.as_int());
  const double number = value.as_float();
  if (std::isnan(number)) return "NaN";
  if (std::isinf(number)) return number > 0 ? "Infinity" : "-Infinity";
  return float_repr(number);
}

std::string json_key(const Value& key) {
  if (key.is_string()) return key.as_string();
  if (key.is_none()) return "null";
  if (key.is_number()) return json_number(key);
  throw Failure(fmt::format("keys must be str, int, float, bool or None, not {}", key.type_name()));
}

void append_break(std::string& out, const JsonOptions& options, int level) {
  if (!options.indent.has_value()) return;
  out += '\n';
  for (int i = 0; i < level; ++i) out += *options.indent;
}

void append_json(std::string& out, const Value& value, const JsonOptions& options, int level, Budget& budget) {
  const Budget::Level nesting(budget);
  const size_t before = out.size();
  if (value.is_none()) {
    out += "null";
  } else if (value.is_number()) {
    out += json_number(value);
  } else if (value.is_string()) {
    append_json_string(out, value.as_string(), options.ensure_ascii);
  } else if (const Sequence* sequence = value.as_sequence();
             sequence != nullptr && sequence->kind <= SequenceKind::kTuple) {
    out += '[';
    for (size_t i = 0; i < sequence->items.size(); ++i) {
      if (i > 0) out += options.item_separator;
      append_break(out, options, level + 1);
      append_json(out, sequence->items[i], options, level + 1, budget);
    }
    if (!sequence->items.empty()) append_break(out, options, level);
    out += ']';
  } else if (const Dict* dict = value.as_dict()) {
    std::vector<std::pair<Value, Value>> items = dict->items();
    if (options.sort_keys) {
      std::stable_sort(items.begin(), items.end(),
                       [&](const auto& a, const auto& b) { return less_than(a.first, b.first, budget); });
    }
    out += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += options.item_separator;
      append_break(out, options, level + 1);
      append_json_string(out, json_key(items[i].first), options.ensure_ascii);
      out += options.key_separator;
      append_json(out, items[i].second, options, level + 1, budget);
    }
    if (!items.empty()) append_break(out, options, level);
    out += '}';
  } else {
    throw Failure(fmt::format("Object of type {} is not JSON serializable", value.type_name()));
  }
  const int64_t indentation =
      options.indent.has_value() ? static_cast<int64_t>(options.indent->size()) * (level + 2) : 0;
  budget.charge((value.depth() == 0 ? static_cast<int64_t>(out.size() - before) : 0) + indentation + 64);
}

std::string_view trim(std::string_view text) {
  return strip_right(strip_left(text));
}

// Removes the underscores that Python allows between digits; nothing if one stands elsewhere.
std::optional<std::string> without_underscores(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || i + 1 == text.size() || std::isalnum(static_cast<unsigned char>(text[i - 1])) == 0 ||
               std::isalnum(static_cast<unsigned char>(text[i + 1])) == 0) {
      return std::nullopt;
    }
  }
  return out;
}

}  // namespace

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 40> buffer{};
  const auto scientific =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  std::string text(buffer.data(), scientific.ptr);
  const size_t e = text.find('e');
  const int exponent = std::stoi(text.substr(e + 1));
  if (exponent < -4 || exponent >= 16) return text;
  std::array<char, 400> plain{};
  const auto fixed = std::to_chars(plain.data(), plain.data() + plain.size(), value, std::chars_format::fixed);
  std::string out(plain.data(), fixed.ptr);
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

std::string string_repr(std::string_view text) {
  const char quote = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  while (!text.empty()) {
    const Utf8Unit unit = read_utf8_unit(text);
    const char32_t c = unit.code_point;
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      out.append(text.substr(0, unit.length));
    } else if (c < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(c));
    } else if (c < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
    }
    text.remove_prefix(unit.length);
  }
  out += quote;
  return out;
}

std::string to_repr(const Value& value, Budget& budget) {
  std::string out;
  append_repr(out, value, budget);
  return out;
}

std::string to_text(const Value& value, Budget& budget) {
  if (value.is_undefined()) return "";
  if (value.is_string()) {
    budget.charge(static_cast<int64_t>(value.as_string().size()));
    return value.as_string();
  }
  return to_repr(value, budget);
}

TracedText to_traced(const Value& value, Budget& budget) {
  if (!value.is_string()) return Value::derived(to_text(value, budget), value).as_text();
  budget.charge(static_cast<int64_t>(value.as_string().size()));
  return value.as_text();
}

std::string to_json(const Value& value, const JsonOptions& options, Budget& budget) {
  std::string out;
  append_json(out, value, options, 0, budget);
  return out;
}

std::optional<int64_t> parse_int(std::string_view text, int base) {
  text = trim(text);
  const bool negative = !text.empty() && text[0] == '-';
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  if (text.size() > 2 && text[0] == '0') {
    const char letter = static_cast<char>(text[1] | 0x20);
    const int prefixed = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (prefixed != 0 && (base == prefixed || base == 0)) {
      base = prefixed;
      text.remove_prefix(text[2] == '_' ? 3 : 2);
    }
  }
  if (base == 0) base = 10;
  const std::optional<std::string> digits = without_underscores(text);
  if (!digits.has_value() || digits->empty() || (*digits)[0] == '-') return std::nullopt;
  int64_t value = 0;
  const std::string signed_digits = (negative ? "-" : "") + *digits;
  const auto [end, error] =
      std::from_chars(signed_digits.data(), signed_digits.data() + signed_digits.size(), value, base);
  if (end != signed_digits.data() + signed_digits.size()) return std::nullopt;
  if (error == std::errc::result_out_of_range) {
    throw Failure(fmt::format("the integer {} does not fit 64 bits; longer ones are not supported", signed_digits));
  }
  return value;
}

std::optional<double> parse_float(std::string_view text) {
  const std::optional<std::string> digits = without_underscores(trim(text));
  if (!digits.has_value() || digits->empty()) return std::nullopt;
  std::string lower = to_lower(*digits);
  if (lower[0] == '+') lower.erase(0, 1);
  if (lower.empty() || lower[0] == '+') return std::nullopt;
  const std::string_view unsigned_part = std::string_view(lower).substr(lower[0] == '-' ? 1 : 0);
  const bool is_word = unsigned_part == "inf" || unsigned_part == "infinity" || unsigned_part == "nan";
  if (!is_word && unsigned_part.find_first_not_of("0123456789.e+-") != std::string_view::npos) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(lower.data(), lower.data() + lower.size(), value);
  if (end != lower.data() + lower.size()) return std::nullopt;
  // Too large or too small: from_chars leaves the value alone, strtod gives the infinity or zero that Python gives.
  if (error == std::errc::result_out_of_range) value = std::strtod(lower.c_str(), nullptr);
  return value;
}

}  // namespace deeptitan::jinja
