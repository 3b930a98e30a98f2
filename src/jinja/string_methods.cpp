#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include <fmt/format.h>

#include "core/utf8.h"
#include "jinja/builtins.h"
#include "jinja/interpreter.h"
#include "jinja/operators.h"
#include "jinja/text.h"
#include "jinja/unicode.h"

// Methods of Python's str. Searches go through memmem, whose time is linear whatever the text.

namespace deeptitan::jinja {
namespace {

constexpr size_t kNotFound = std::string_view::npos;

size_t find_bytes(std::string_view text, std::string_view wanted, size_t from = 0) {
  if (from > text.size()) return kNotFound;
  const void* found = memmem(text.data() + from, text.size() - from, wanted.data(), wanted.size());
  return found == nullptr ? kNotFound : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

size_t find_bytes_from_end(std::string_view text, std::string_view wanted) {
  const std::string reversed_text(text.rbegin(), text.rend());
  const std::string reversed_wanted(wanted.rbegin(), wanted.rend());
  const size_t found = find_bytes(reversed_text, reversed_wanted);
  return found == kNotFound ? kNotFound : text.size() - found - wanted.size();
}

// The part of a text that optional start and end arguments leave, and how many characters stand before it.
struct Window {
  std::string_view text;
  int64_t before = 0;
  bool empty_range = false;  // start lies behind end: nothing is found, not even the empty text
};

Window window_of(const std::string& text, const Value* start, const Value* end) {
  const bool has_start = start != nullptr && !start->is_none();
  const bool has_end = end != nullptr && !end->is_none();
  if (!has_start && !has_end) return {text, 0, false};
  const auto size = static_cast<int64_t>(character_count(text));
  const auto position = [&](const Value& value) {
    const int64_t index = require_int(value, "a bound");
    return index < 0 ? std::max<int64_t>(index < -size ? 0 : index + size, 0) : index;
  };
  const int64_t first = has_start ? position(*start) : 0;
  const int64_t last = has_end ? std::min(position(*end), size) : size;
  if (first > last) return {{}, first, true};
  const size_t from = byte_offset(text, static_cast<size_t>(first));
  const size_t to = byte_offset(text, static_cast<size_t>(last));
  return {std::string_view(text).substr(from, to - from), first, false};
}

// The methods charge the text they read before they read it.
const std::string& charged(Interpreter& interpreter, const Value& self) {
  interpreter.budget().charge(static_cast<int64_t>(self.as_string().size()) * 4 + 8);
  return self.as_string();
}

void no_arguments(const Arguments& arguments) {
  const BoundArguments none("this method", arguments, {});
}

template <std::string (*kConvert)(std::string_view)>
Value convert_self(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  no_arguments(arguments);
  return Value::derived(kConvert(charged(interpreter, self)), self);
}

template <bool kLeft, bool kRight>
Value strip(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const BoundArguments bound("strip", arguments, {"chars"});
  std::string_view text = charged(interpreter, self);
  const std::string* set = nullptr;
  if (bound.get(0) != nullptr && !bound[0].is_none()) {
    set = &require_string(bound[0], "the characters to strip");
    interpreter.budget().charge(static_cast<int64_t>(set->size()) * static_cast<int64_t>(text.size() + 1));
  }
  if (kLeft) text = strip_left(text, set);
  if (kRight) text = strip_right(text, set);
  return self.piece(text);
}

enum class Search { kFind, kIndex };

template <bool kFromEnd, Search kSearch>
Value search(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const BoundArguments bound("find", arguments, {"sub", "start", "end"}, 1);
  const std::string& wanted = require_string(bound[0], "what to find");
  const Window window = window_of(charged(interpreter, self), bound.get(1), bound.get(2));
  const size_t found = window.empty_range ? kNotFound
                       : kFromEnd         ? find_bytes_from_end(window.text, wanted)
                                          : find_bytes(window.text, wanted);
  if (found == kNotFound) {
    if (kSearch == Search::kIndex) throw Failure("substring not found");
    return -1;
  }
  return window.before + static_cast<int64_t>(character_count(window.text.substr(0, found)));
}

Value count(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const BoundArguments bound("count", arguments, {"sub", "start", "end"}, 1);
  const std::string& wanted = require_string(bound[0], "what to count");
  const Window window = window_of(charged(interpreter, self), bound.get(1), bound.get(2));
  if (window.empty_range) return 0;
  if (wanted.empty()) return static_cast<int64_t>(character_count(window.text)) + 1;
  int64_t total = 0;
  for (size_t at = find_bytes(window.text, wanted); at != kNotFound;
       at = find_bytes(window.text, wanted, at + wanted.size())) {
    ++total;
  }
  return total;
}

template <bool kEnd>
Value affix(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const BoundArguments bound(kEnd ? "endswith" : "startswith", arguments, {"affix", "start", "end"}, 1);
  const Window window = window_of(charged(interpreter, self), bound.get(1), bound.get(2));
  const auto matches = [&](const Value& value) {
    const std::string& text = require_string(value, kEnd ? "the argument of endswith" : "the argument of startswith");
    return !window.empty_range && (kEnd ? window.text.ends_with(text) : window.text.starts_with(text));
  };
  const Sequence* several = bound[0].as_sequence();
  if (several == nullptr || several->kind != SequenceKind::kTuple) return matches(bound[0]);
  return std::any_of(several->items.begin(), several->items.end(), matches);
}

template <bool kEnd>
Value remove_affix(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const BoundArguments bound("removeprefix", arguments, {"affix"}, 1);
  std::string_view text = charged(interpreter, self);
  const std::string& removed = require_string(bound[0], "the text to remove");
  if (kEnd && text.ends_with(removed)) text.remove_suffix(removed.size());
  if (!kEnd && text.starts_with(removed)) text.remove_prefix(removed.size());
  return self.piece(text);
}

Value replace_in_self(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const BoundArguments bound("replace", arguments, {"old", "new", "count"}, 2);
  const std::string& from = require_string(bound[0], "the text to replace");
  require_string(bound[1], "the replacement");
  return replace_text(self.as_text(), from, bound[1].as_text(), bound.int_or(2, -1), interpreter.budget());
}

Value join(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const BoundArguments bound("join", arguments, {"iterable"}, 1);
  TracedText out;
  bool first = true;
  for (const Value& item : iterate(bound[0], interpreter.budget())) {
    const std::string& part = require_string(item, "each item of join");
    interpreter.budget().charge(static_cast<int64_t>(part.size() + self.as_string().size()));
    if (!first) out.append(self.as_text());
    out.append(item.as_text());
    first = false;
  }
  return out;
}

std::vector<Value> split_at_whitespace(const Value& self, int64_t limit, bool from_end) {
  std::string_view text = self.as_string();
  std::vector<Value> parts;
  while (true) {
    text = from_end ? strip_right(text) : strip_left(text);
    if (text.empty()) break;
    if (limit == 0) {
      parts.push_back(self.piece(text));
      break;
    }
    --limit;
    size_t cut = 0;
    if (from_end) {
      cut = text.size();
      while (cut > 0) {
        size_t start = cut - 1;
        while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
        if (is_space(read_utf8_unit(text.substr(start)).code_point)) break;
        cut = start;
      }
      parts.push_back(self.piece(text.substr(cut)));
      text = text.substr(0, cut);
    } else {
      while (cut < text.size()) {
        const Utf8Unit unit = read_utf8_unit(text.substr(cut));
        if (is_space(unit.code_point)) break;
        cut += unit.length;
      }
      parts.push_back(self.piece(text.substr(0, cut)));
      text = text.substr(cut);
    }
  }
  if (from_end) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<Value> split_at(const Value& self, std::string_view separator, int64_t limit, bool from_end) {
  const std::string_view text = self.as_string();
  std::vector<size_t> cuts;
  if (from_end) {
    const std::string reversed_text(text.rbegin(), text.rend());
    const std::string reversed_separator(separator.rbegin(), separator.rend());
    for (size_t at = find_bytes(reversed_text, reversed_separator);
         at != kNotFound && static_cast<int64_t>(cuts.size()) != limit;
         at = find_bytes(reversed_text, reversed_separator, at + separator.size())) {
      cuts.push_back(text.size() - at - separator.size());
    }
    std::reverse(cuts.begin(), cuts.end());
  } else {
    for (size_t at = find_bytes(text, separator); at != kNotFound && static_cast<int64_t>(cuts.size()) != limit;
         at = find_bytes(text, separator, at + separator.size())) {
      cuts.push_back(at);
    }
  }
  std::vector<Value> parts;
  size_t start = 0;
  for (size_t cut : cuts) {
    parts.push_back(self.piece(text.substr(start, cut - start)));
    start = cut + separator.size();
  }
  parts.push_back(self.piece(text.substr(start)));
  return parts;
}

template <bool kFromEnd>
Value split(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const BoundArguments bound("split", arguments, {"sep", "maxsplit"});
  // A part costs far more than its letters, and there can be as many parts as letters.
  interpreter.budget().charge(static_cast<int64_t>(self.as_string().size()) * 32);
  charged(interpreter, self);
  const int64_t limit = bound.int_or(1, -1);
  if (bound.get(0) == nullptr || bound[0].is_none()) return Value::list(split_at_whitespace(self, limit, kFromEnd));
  const std::string& separator = require_string(bound[0], "the separator of split");
  if (separator.empty()) throw Failure("empty separator");
  return Value::list(split_at(self, separator, limit, kFromEnd));
}

Value splitlines(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const BoundArguments bound("splitlines", arguments, {"keepends"});
  std::vector<Value> lines;
  for (std::string_view line : split_lines(self.as_string(), bound.bool_or(0, false), interpreter.budget())) {
    lines.push_back(self.piece(line));
  }
  return Value::list(std::move(lines));
}

constexpr Method kMethods[] = {
    {"capitalize", convert_self<capitalize>},
    {"count", count},
    {"endswith", affix<true>},
    {"find", search<false, Search::kFind>},
    {"format", format_text},
    {"index", search<false, Search::kIndex>},
    {"join", join},
    {"lower", convert_self<to_lower>},
    {"lstrip", strip<true, false>},
    {"removeprefix", remove_affix<false>},
    {"removesuffix", remove_affix<true>},
    {"replace", replace_in_self},
    {"rfind", search<true, Search::kFind>},
    {"rsplit", split<true>},
    {"rstrip", strip<false, true>},
    {"split", split<false>},
    {"splitlines", splitlines},
    {"startswith", affix<false>},
    {"strip", strip<true, true>},
    {"title", convert_self<to_title>},
    {"upper", convert_self<to_upper>},
};

}  // namespace

Function::Body find_string_method(std::string_view name) {
  for (const Method& method : kMethods) {
    if (method.name == name) return method.body;
  }
  return nullptr;
}

std::vector<std::string_view> string_method_names() {
  return names_of_rows(kMethods);
}

TracedText replace_text(const TracedText& whole, std::string_view from, const TracedText& to, int64_t count,
                        Budget& budget) {
  const std::string_view text = whole.bytes();
  budget.charge(static_cast<int64_t>(text.size()));
  TracedText out;
  size_t done = 0;
  const auto copy_until = [&](size_t end, size_t skip) {
    budget.charge(static_cast<int64_t>(end - done + to.bytes().size()) + 32);
    out.append(whole, done, end - done);
    out.append(to);
    done = end + skip;
  };
  if (from.empty()) {
    // The replacement stands before each character and at the end.
    for (size_t at = 0; count != 0; --count) {
      copy_until(at, 0);
      if (at == text.size()) break;
      at += read_utf8_unit(text.substr(at)).length;
    }
  } else {
    for (size_t at = find_bytes(text, from); at != kNotFound && count != 0;
         at = find_bytes(text, from, done), --count) {
      copy_until(at, from.size());
    }
  }
  out.append(whole, done, text.size() - done);
  return out;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends, Budget& budget) {
  budget.charge(static_cast<int64_t>(text.size()) * 32);
  const auto ends_line = [](char32_t c) {
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
  };
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Unit unit = read_utf8_unit(text.substr(at));
    size_t next = at + unit.length;
    if (ends_line(unit.code_point)) {
      if (unit.code_point == '\r' && next < text.size() && text[next] == '\n') ++next;
      lines.emplace_back(text.substr(start, (keep_ends ? next : at) - start));
      start = next;
    }
    at = next;
  }
  if (start < text.size()) lines.emplace_back(text.substr(start));
  return lines;
}

}  // namespace deeptitan::jinja
