#include "jinja/unicode.h"

#include <algorithm>
#include <span>

#include "core/utf8.h"
#include "jinja/unicode_tables.h"

namespace deeptitan::jinja {
namespace {

bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

// The row that holds `c`. Rows are sorted by their first character and two rows of stride 2 may interleave (capital and
// small letters alternate), so the search looks back over rows that start before `c`; at most a few overlap.
template <typename Row>
const Row* find_row(std::span<const Row> rows, char32_t c) {
  auto after =
      std::upper_bound(rows.begin(), rows.end(), c, [](char32_t value, const Row& row) { return value < row.first; });
  for (int looked_at = 0; after != rows.begin() && looked_at < 8; ++looked_at) {
    --after;
    if (c <= after->last && (c - after->first) % after->stride == 0) return &*after;
  }
  return nullptr;
}

void append_mapped(std::u32string& out, char32_t c, std::span<const CaseRange> rows,
                   std::span<const SpecialCase> special) {
  const auto found = std::lower_bound(special.begin(), special.end(), c,
                                      [](const SpecialCase& row, char32_t value) { return row.from < value; });
  if (found != special.end() && found->from == c) {
    for (char32_t to : found->to) {
      if (to != 0) out.push_back(to);
    }
    return;
  }
  const CaseRange* row = find_row(rows, c);
  out.push_back(row == nullptr ? c : static_cast<char32_t>(static_cast<int64_t>(c) + row->delta));
}

bool is_cased(char32_t c) {
  return is_lowercase(c) || is_uppercase(c) || find_row(kToTitle, c) != nullptr || find_row(kToLower, c) != nullptr;
}

// Sigma is the one letter whose lower case depends on its neighbours.
void append_lower(std::u32string& out, const std::u32string& text, size_t i) {
  constexpr char32_t kCapitalSigma = 0x3A3;
  constexpr char32_t kFinalSigma = 0x3C2;
  if (text[i] == kCapitalSigma && i > 0 && is_cased(text[i - 1]) && (i + 1 == text.size() || !is_cased(text[i + 1]))) {
    out.push_back(kFinalSigma);
  } else {
    append_mapped(out, text[i], kToLower, kToLowerSpecial);
  }
}

}  // namespace

size_t character_count(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char byte) { return !is_continuation(byte); }));
}

size_t byte_offset(std::string_view text, size_t index) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (is_continuation(text[i])) continue;
    if (index == 0) return i;
    --index;
  }
  return text.size();
}

std::u32string decode_utf8(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Unit unit = read_utf8_unit(text);
    out.push_back(unit.code_point);
    text.remove_prefix(unit.length);
  }
  return out;
}

std::string encode_utf8(std::u32string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char32_t c : text) append_utf8(out, c);
  return out;
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_printable(char32_t c) {
  return find_row(kNotPrintable, c) == nullptr;
}
bool is_alpha(char32_t c) {
  return find_row(kAlpha, c) != nullptr;
}
bool is_decimal(char32_t c) {
  return find_row(kDecimal, c) != nullptr;
}
bool is_digit(char32_t c) {
  return find_row(kDigit, c) != nullptr;
}
bool is_numeric(char32_t c) {
  return find_row(kNumeric, c) != nullptr;
}
bool is_alphanumeric(char32_t c) {
  return is_alpha(c) || is_decimal(c) || is_digit(c) || is_numeric(c);
}
bool is_lowercase(char32_t c) {
  return find_row(kLowercase, c) != nullptr;
}
bool is_uppercase(char32_t c) {
  return find_row(kUppercase, c) != nullptr;
}

std::string to_lower(std::string_view text) {
  const std::u32string in = decode_utf8(text);
  std::u32string out;
  for (size_t i = 0; i < in.size(); ++i) append_lower(out, in, i);
  return encode_utf8(out);
}

std::string to_upper(std::string_view text) {
  std::u32string out;
  for (char32_t c : decode_utf8(text)) append_mapped(out, c, kToUpper, kToUpperSpecial);
  return encode_utf8(out);
}

std::string to_title(std::string_view text) {
  const std::u32string in = decode_utf8(text);
  std::u32string out;
  bool inside_word = false;
  for (size_t i = 0; i < in.size(); ++i) {
    if (inside_word) {
      append_lower(out, in, i);
    } else {
      append_mapped(out, in[i], kToTitle, kToTitleSpecial);
    }
    inside_word = is_cased(in[i]);
  }
  return encode_utf8(out);
}

std::string capitalize(std::string_view text) {
  const std::u32string in = decode_utf8(text);
  std::u32string out;
  for (size_t i = 0; i < in.size(); ++i) {
    if (i == 0) {
      append_mapped(out, in[i], kToTitle, kToTitleSpecial);
    } else {
      append_lower(out, in, i);
    }
  }
  return encode_utf8(out);
}

std::string swap_case(std::string_view text) {
  const std::u32string in = decode_utf8(text);
  std::u32string out;
  for (size_t i = 0; i < in.size(); ++i) {
    if (is_uppercase(in[i])) {
      append_lower(out, in, i);
    } else if (is_lowercase(in[i])) {
      append_mapped(out, in[i], kToUpper, kToUpperSpecial);
    } else {
      out.push_back(in[i]);
    }
  }
  return encode_utf8(out);
}

bool all_characters(std::string_view text, bool (*predicate)(char32_t)) {
  const std::u32string characters = decode_utf8(text);
  return !characters.empty() && std::all_of(characters.begin(), characters.end(), predicate);
}

bool is_lower_text(std::string_view text) {
  bool seen = false;
  for (char32_t c : decode_utf8(text)) {
    if (is_lowercase(c)) {
      seen = true;
    } else if (is_cased(c)) {
      return false;
    }
  }
  return seen;
}

bool is_upper_text(std::string_view text) {
  bool seen = false;
  for (char32_t c : decode_utf8(text)) {
    if (is_uppercase(c)) {
      seen = true;
    } else if (is_cased(c)) {
      return false;
    }
  }
  return seen;
}

namespace {

bool is_stripped(char32_t c, const std::u32string* characters) {
  return characters == nullptr ? is_space(c) : characters->find(c) != std::u32string::npos;
}

}  // namespace

std::string_view strip_left(std::string_view text, const std::string* characters) {
  const std::u32string set = characters == nullptr ? std::u32string() : decode_utf8(*characters);
  while (!text.empty()) {
    const Utf8Unit unit = read_utf8_unit(text);
    if (!is_stripped(unit.code_point, characters == nullptr ? nullptr : &set)) break;
    text.remove_prefix(unit.length);
  }
  return text;
}

std::string_view strip_right(std::string_view text, const std::string* characters) {
  const std::u32string set = characters == nullptr ? std::u32string() : decode_utf8(*characters);
  while (!text.empty()) {
    size_t start = text.size() - 1;
    while (start > 0 && is_continuation(text[start])) --start;
    if (!is_stripped(read_utf8_unit(text.substr(start)).code_point, characters == nullptr ? nullptr : &set)) break;
    text.remove_suffix(text.size() - start);
  }
  return text;
}

}  // namespace deeptitan::jinja
