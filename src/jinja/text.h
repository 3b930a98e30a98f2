#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "jinja/value.h"

namespace deeptitan::jinja {

/// str(value): text as it is, numbers and containers as Python prints them, undefined as nothing.
std::string to_text(const Value& value, Budget& budget);

/// The same, knowing where it came from.
TracedText to_traced(const Value& value, Budget& budget);

/// repr(value), as it shows inside a printed list: text in quotes with escapes.
std::string to_repr(const Value& value, Budget& budget);

/// repr of a double: the shortest digits that read back the same, an exponent below 1e-4 and from 1e16 on.
std::string float_repr(double value);

/// repr of a text: single quotes unless it holds one and no double quote; what is not printable is escaped.
std::string string_repr(std::string_view text);

struct JsonOptions {
  bool ensure_ascii = false;
  std::optional<std::string> indent;  // one level's indentation; on one line if absent
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};

/// json.dumps(value), which is what `tojson` gives in a chat template (transformers' own filter: no HTML escapes).
/// Throws Failure for what JSON cannot hold.
std::string to_json(const Value& value, const JsonOptions& options, Budget& budget);

/// The number that `text` spells for int(text, base) and float(text): surrounding whitespace, sign, single underscores
/// between digits; nothing if it spells none. Throws Failure for an integer beyond 64 bits.
std::optional<int64_t> parse_int(std::string_view text, int base);
std::optional<double> parse_float(std::string_view text);

}  // namespace deeptitan::jinja
