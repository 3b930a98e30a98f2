#include "core/shown_text.h"

#include <cstdint>

#include <fmt/format.h>

#include "core/utf8.h"

namespace deeptitan {

namespace {

constexpr size_t kMaxMessageBytes = 16'000;

/// Characters that no terminal shows as themselves: controls, line separators, and those that turn the direction.
bool is_hidden(uint32_t c) {
  return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x200e || c == 0x200f || (c >= 0x2028 && c <= 0x202e) ||
         (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

void append_escaped(uint32_t c, std::string& out) {
  if (c == '\n') {
    out += "\\n";
  } else if (c == '\t') {
    out += "\\t";
  } else if (c == '\r') {
    out += "\\r";
  } else if (c < 0x100) {
    out += fmt::format("\\x{:02x}", c);
  } else {
    out += fmt::format("\\u{:04x}", c);
  }
}

std::string escaped(std::string_view text, size_t most, bool keep_lines) {
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Unit unit = read_utf8_unit(text.substr(at));
    const uint32_t c = unit.code_point;
    if (at + unit.length > most) {
      out += fmt::format("... ({} bytes)", text.size());
      break;
    }
    if (unit.kind != Utf8Unit::Kind::kValid) {
      for (size_t i = 0; i < unit.length; ++i) append_escaped(static_cast<uint8_t>(text[at + i]), out);
    } else if (is_hidden(c) && !(keep_lines && (c == '\n' || c == '\t'))) {
      append_escaped(c, out);
    } else {
      out += text.substr(at, unit.length);
    }
    at += unit.length;
  }
  return out;
}

}  // namespace

std::string shown(std::string_view text, size_t most) {
  return escaped(text, most, /*keep_lines=*/false);
}

std::string printable_message(std::string_view message) {
  return escaped(message, kMaxMessageBytes, /*keep_lines=*/true);
}

}  // namespace deeptitan
