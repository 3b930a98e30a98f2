#include "core/utf8.h"

#include <cstring>

namespace deeptitan {
namespace {

constexpr char32_t kReplacement = 0xFFFD;
constexpr std::string_view kReplacementUtf8 = "\xEF\xBF\xBD";

// The bytes that may follow a lead byte: how many, and the range of the first of them (the others are 80..BF).
struct Continuation {
  size_t count;
  unsigned char first_low;
  unsigned char first_high;
};

Continuation continuation_of(unsigned char lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return {1, 0x80, 0xBF};
  if (lead == 0xE0) return {2, 0xA0, 0xBF};
  if (lead == 0xED) return {2, 0x80, 0x9F};
  if (lead >= 0xE1 && lead <= 0xEF) return {2, 0x80, 0xBF};
  if (lead == 0xF0) return {3, 0x90, 0xBF};
  if (lead >= 0xF1 && lead <= 0xF3) return {3, 0x80, 0xBF};
  if (lead == 0xF4) return {3, 0x80, 0x8F};
  return {0, 0, 0};
}

// The length of the run of ASCII at the start of `text`.
size_t ascii_prefix(std::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + i, sizeof word);
    if (word & 0x8080808080808080u) break;
  }
  while (i < text.size() && static_cast<unsigned char>(text[i]) < 0x80) ++i;
  return i;
}

}  // namespace

Utf8Unit read_utf8_unit(std::string_view bytes) {
  const auto lead = static_cast<unsigned char>(bytes[0]);
  if (lead < 0x80) return {Utf8Unit::Kind::kValid, 1, lead};
  const Continuation continuation = continuation_of(lead);
  if (continuation.count == 0) return {Utf8Unit::Kind::kInvalid, 1, kReplacement};
  char32_t code_point = lead & (0x3Fu >> continuation.count);
  for (size_t i = 1; i <= continuation.count; ++i) {
    if (i == bytes.size()) return {Utf8Unit::Kind::kIncomplete, i, kReplacement};
    const auto byte = static_cast<unsigned char>(bytes[i]);
    const unsigned char low = i == 1 ? continuation.first_low : 0x80;
    const unsigned char high = i == 1 ? continuation.first_high : 0xBF;
    if (byte < low || byte > high) return {Utf8Unit::Kind::kInvalid, i, kReplacement};
    code_point = (code_point << 6) | (byte & 0x3Fu);
  }
  return {Utf8Unit::Kind::kValid, continuation.count + 1, code_point};
}

void append_utf8(std::string& text, char32_t code_point) {
  const auto continuation = [&](int shift) { text += static_cast<char>(0x80 | ((code_point >> shift) & 0x3F)); };
  if (code_point < 0x80) {
    text += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    text += static_cast<char>(0xC0 | (code_point >> 6));
    continuation(0);
  } else if (code_point < 0x10000) {
    text += static_cast<char>(0xE0 | (code_point >> 12));
    continuation(6);
    continuation(0);
  } else {
    text += static_cast<char>(0xF0 | (code_point >> 18));
    continuation(12);
    continuation(6);
    continuation(0);
  }
}

bool is_valid_utf8(std::string_view text) {
  while (true) {
    text.remove_prefix(ascii_prefix(text));
    if (text.empty()) return true;
    const Utf8Unit unit = read_utf8_unit(text);
    if (unit.kind != Utf8Unit::Kind::kValid) return false;
    text.remove_prefix(unit.length);
  }
}

SanitizedText utf8_sanitize(std::string_view text) {
  SanitizedText result;
  result.text.reserve(text.size());
  while (!text.empty()) {
    size_t length = ascii_prefix(text);
    if (length == 0) {
      const Utf8Unit unit = read_utf8_unit(text);
      length = unit.length;
      if (unit.kind != Utf8Unit::Kind::kValid) {
        result.text += kReplacementUtf8;
        ++result.replaced_count;
        text.remove_prefix(length);
        continue;
      }
    }
    result.text += text.substr(0, length);
    text.remove_prefix(length);
  }
  return result;
}

std::string Utf8Stream::push(std::string_view bytes) {
  held_ += bytes;
  std::string_view pending = held_;
  std::string text;
  while (!pending.empty()) {
    const Utf8Unit unit = read_utf8_unit(pending);
    if (unit.kind == Utf8Unit::Kind::kIncomplete) break;
    if (unit.kind == Utf8Unit::Kind::kValid) {
      text += pending.substr(0, unit.length);
    } else {
      text += kReplacementUtf8;
    }
    pending.remove_prefix(unit.length);
  }
  held_.erase(0, held_.size() - pending.size());
  return text;
}

std::string Utf8Stream::flush() {
  std::string text = utf8_sanitize(held_).text;
  held_.clear();
  return text;
}

}  // namespace deeptitan
