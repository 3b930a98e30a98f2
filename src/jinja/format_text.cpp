#include <algorithm>
#include <charconv>
#include <optional>

#include <fmt/format.h>

#include "jinja/builtins.h"
#include "jinja/interpreter.h"
#include "jinja/text.h"

// Python's str.format, for the fields that chat templates write.

namespace deeptitan::jinja {
namespace {

constexpr int kWidestField = 10'000;

// The value of a field: by the next place, by its number, or by its name.
class Fields {
 public:
  explicit Fields(const Arguments& arguments) : arguments_(arguments) {}

  const Value& find(std::string_view name) {
    if (name.empty()) {
      if (numbered_) throw Failure("cannot switch from manual field specification to automatic field numbering");
      counted_ = true;
      return at(next_++);
    }
    size_t index = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
    if (end == name.data() + name.size()) {
      if (counted_) throw Failure("cannot switch from automatic field numbering to manual field specification");
      numbered_ = true;
      return at(error == std::errc() ? index : arguments_.positional.size());
    }
    const auto found = std::find_if(arguments_.keywords.begin(), arguments_.keywords.end(),
                                    [&](const auto& keyword) { return keyword.first == name; });
    if (found != arguments_.keywords.end()) return found->second;
    if (name.find_first_of(".[") != std::string_view::npos) {
      throw Failure(fmt::format("the field '{{{}}}' of format is not supported; a field is a number or a name", name));
    }
    throw Failure(fmt::format("format has no argument '{}'", name));
  }

 private:
  const Value& at(size_t index) const {
    if (index < arguments_.positional.size()) return arguments_.positional[index];
    throw Failure(fmt::format("Replacement index {} out of range for positional args tuple", index));
  }

  const Arguments& arguments_;
  size_t next_ = 0;
  bool counted_ = false;
  bool numbered_ = false;
};

bool is_wide(std::string_view specification) {
  int width = 0;
  for (const char c : specification) {
    width = c >= '0' && c <= '9' ? std::min(width * 10 + (c - '0'), kWidestField + 1) : 0;
    if (width > kWidestField) return true;
  }
  return false;
}

// Python's format specifications are fmt's, but for those that group digits or mean a share of hundred.
TracedText formatted(const Value& value, std::string_view specification, Budget& budget) {
  if (specification.empty()) return to_traced(value, budget);
  const auto refuse = [&] {
    throw Failure(
        fmt::format("the format '{}' of a value of type '{}' is not supported", specification, value.type_name()));
  };
  const bool is_ascii = !value.is_string() || std::all_of(value.as_string().begin(), value.as_string().end(),
                                                          [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (!is_ascii || is_wide(specification) || specification.find_first_of(",%_{}n") != std::string_view::npos) refuse();
  const std::string pattern = fmt::format("{{:{}}}", specification);
  budget.charge(kWidestField);
  try {
    std::string out;
    if (value.is_string()) {
      out = fmt::format(fmt::runtime(pattern), value.as_string());
    } else if (value.is_int() && !value.is_bool() && specification.find_first_of("eEfFgG") == std::string_view::npos) {
      out = fmt::format(fmt::runtime(pattern), value.as_int());
    } else if (value.is_number() && !value.is_bool() &&
               specification.find_first_of("eEfFgG") != std::string_view::npos) {
      out = fmt::format(fmt::runtime(pattern), value.as_float());
    } else {
      refuse();
    }
    return Value::derived(std::move(out), value).as_text();
  } catch (const fmt::format_error&) {
    refuse();
  }
  return {};
}

}  // namespace

Value format_text(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const std::string_view text = self.as_string();
  Budget& budget = interpreter.budget();
  budget.charge(static_cast<int64_t>(text.size()) * 4 + 8);
  Fields fields(arguments);
  TracedText out;
  for (size_t at = 0; at < text.size();) {
    const size_t brace = std::min(text.find_first_of("{}", at), text.size());
    out.append(self.as_text(), at, brace - at);
    at = brace;
    if (at == text.size()) break;
    if (at + 1 < text.size() && text[at + 1] == text[at]) {
      out.append(text.substr(at, 1));
      at += 2;
      continue;
    }
    if (text[at] == '}') throw Failure("Single '}' encountered in format string");
    const size_t end = text.find('}', at);
    if (end == std::string_view::npos) throw Failure("expected '}' before end of string");
    std::string_view field = text.substr(at + 1, end - at - 1);
    std::string_view specification;
    if (const size_t colon = field.find(':'); colon != std::string_view::npos) {
      specification = field.substr(colon + 1);
      field = field.substr(0, colon);
    }
    std::string_view conversion;
    if (const size_t mark = field.find('!'); mark != std::string_view::npos) {
      conversion = field.substr(mark + 1);
      field = field.substr(0, mark);
    }
    const Value& value = fields.find(field);
    if (conversion == "r") {
      out.append(formatted(Value::derived(to_repr(value, budget), value), specification, budget));
    } else if (conversion == "s") {
      out.append(formatted(to_traced(value, budget), specification, budget));
    } else if (conversion.empty()) {
      out.append(formatted(value, specification, budget));
    } else {
      throw Failure(fmt::format("the conversion '!{}' of format is not supported; there are !r and !s", conversion));
    }
    at = end + 1;
  }
  return out;
}

}  // namespace deeptitan::jinja
