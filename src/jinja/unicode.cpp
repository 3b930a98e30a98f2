#include "jinja/unicode.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <utf8proc.h>

#include "core/utf8.h"

namespace deeptitan::jinja {
namespace {

bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

constexpr char32_t kSharpS = 0xDF;
constexpr char32_t kIotaBelow = 0x345;
constexpr char32_t kCapitalIota = 0x399;

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

char32_t simple_upper(char32_t c) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}

char32_t simple_title(char32_t c) {
  return static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
}

bool is_cased_letter(char32_t c) {
  return category(c) >= UTF8PROC_CATEGORY_LU && category(c) <= UTF8PROC_CATEGORY_LT;
}

// What a character is made of: by canonical decomposition, or by the compatible one of ligatures alone.
std::u32string parts_of(char32_t c) {
  const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
  const bool is_ligature = property->decomp_type == UTF8PROC_DECOMP_TYPE_COMPAT;
  if (property->decomp_type != 0 && !is_ligature) return std::u32string(1, c);
  utf8proc_int32_t parts[32];
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | (is_ligature ? UTF8PROC_COMPAT : 0));
  const utf8proc_ssize_t count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 32, options, nullptr);
  return count > 0 && count <= 32 ? std::u32string(parts, parts + count) : std::u32string(1, c);
}

std::u32string composed(std::u32string parts) {
  std::vector<utf8proc_int32_t> buffer(parts.begin(), parts.end());
  const utf8proc_ssize_t size =
      utf8proc_normalize_utf32(buffer.data(), static_cast<utf8proc_ssize_t>(buffer.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  return size < 0 ? std::move(parts) : std::u32string(buffer.begin(), buffer.begin() + size);
}

// The letters of a character with an iota below, without it.
std::u32string upper_without_iota(const std::u32string& parts) {
  std::u32string upper;
  for (char32_t part : parts) {
    if (part != kIotaBelow) upper.push_back(simple_upper(part));
  }
  return composed(std::move(upper));
}

// The full mapping (SpecialCasing.txt). Where it gives several characters, they follow from what the letter is made of:
// an iota below goes to the end as a letter, other marks stay, and the letters of a ligature are mapped one by one.
void append_upper(std::u32string& out, char32_t c) {
  if (c < 0x80) {
    out.push_back(simple_upper(c));
    return;
  }
  if (c == kSharpS) {
    out += U"SS";
    return;
  }
  const std::u32string parts = parts_of(c);
  if (is_cased_letter(c) && parts.find(kIotaBelow) != std::u32string::npos) {
    out += upper_without_iota(parts);
    out.push_back(kCapitalIota);
  } else if (simple_upper(c) != c || category(c) != UTF8PROC_CATEGORY_LL) {
    out.push_back(simple_upper(c));
  } else {
    for (char32_t part : parts) out.push_back(simple_upper(part));
  }
}

// As append_upper, of the first letter of what it gives alone.
void append_title(std::u32string& out, char32_t c) {
  if (c == kSharpS) {
    out += U"Ss";
    return;
  }
  if (c < 0x80 || simple_title(c) != c || category(c) != UTF8PROC_CATEGORY_LL) {
    out.push_back(simple_title(c));
    return;
  }
  const std::u32string parts = parts_of(c);
  if (parts.find(kIotaBelow) != std::u32string::npos) {
    out += upper_without_iota(parts);
    out.push_back(kIotaBelow);
    return;
  }
  bool done = false;
  for (char32_t part : parts) {
    out.push_back(done ? part : simple_title(part));
    done = done || simple_title(part) != part;
  }
}

// Sigma is the one letter whose lower case depends on its neighbours.
void append_lower(std::u32string& out, const std::u32string& text, size_t i) {
  constexpr char32_t kCapitalSigma = 0x3A3;
  constexpr char32_t kFinalSigma = 0x3C2;
  constexpr char32_t kCapitalDottedI = 0x130;
  if (text[i] == kCapitalSigma && i > 0 && is_cased_letter(text[i - 1]) &&
      (i + 1 == text.size() || !is_cased_letter(text[i + 1]))) {
    out.push_back(kFinalSigma);
  } else {
    if (text[i] == kCapitalDottedI) {
      out += U"i\u0307";
      return;
    }
    out.push_back(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(text[i]))));
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
  if (c == ' ') return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
      return false;
    default:
      return true;
  }
}
bool is_alphanumeric(char32_t c) {
  const utf8proc_category_t found = category(c);
  const bool letter = found >= UTF8PROC_CATEGORY_LU && found <= UTF8PROC_CATEGORY_LO;
  return letter || (found >= UTF8PROC_CATEGORY_ND && found <= UTF8PROC_CATEGORY_NO);
}

std::string to_lower(std::string_view text) {
  const std::u32string in = decode_utf8(text);
  std::u32string out;
  for (size_t i = 0; i < in.size(); ++i) append_lower(out, in, i);
  return encode_utf8(out);
}

std::string to_upper(std::string_view text) {
  std::u32string out;
  for (char32_t c : decode_utf8(text)) append_upper(out, c);
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
      append_title(out, in[i]);
    }
    inside_word = is_cased_letter(in[i]);
  }
  return encode_utf8(out);
}

std::string capitalize(std::string_view text) {
  const std::u32string in = decode_utf8(text);
  std::u32string out;
  for (size_t i = 0; i < in.size(); ++i) {
    if (i == 0) {
      append_title(out, in[i]);
    } else {
      append_lower(out, in, i);
    }
  }
  return encode_utf8(out);
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
