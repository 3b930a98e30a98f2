#include "jinja/unicode.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include <utf8proc.h>

#include "core/utf8.h"

namespace deeptitan::jinja {
namespace {

bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

// What Unicode's properties Lowercase and Uppercase hold besides the categories Ll and Lu, characters that are digits
// without being decimal ones, and ideographs that are numbers (PropList.txt, UnicodeData.txt and
// Unihan_NumericValues.txt of Unicode 14 and 15). The library knows categories and simple mappings, and none of these.
struct Range {
  char32_t first;
  char32_t last;
};

constexpr Range kOtherLowercase[] = {
    {0xAA, 0xAA},       {0xBA, 0xBA},       {0x2B0, 0x2B8},     {0x2C0, 0x2C1},     {0x2E0, 0x2E4},
    {0x345, 0x345},     {0x37A, 0x37A},     {0x1D2C, 0x1D6A},   {0x1D78, 0x1D78},   {0x1D9B, 0x1DBF},
    {0x2071, 0x2071},   {0x207F, 0x207F},   {0x2090, 0x209C},   {0x2170, 0x217F},   {0x24D0, 0x24E9},
    {0x2C7C, 0x2C7D},   {0xA69C, 0xA69D},   {0xA770, 0xA770},   {0xA7F8, 0xA7F9},   {0xAB5C, 0xAB5F},
    {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x1E030, 0x1E06D}};
constexpr Range kOtherUppercase[] = {
    {0x2160, 0x216F}, {0x24B6, 0x24CF}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};
constexpr Range kOtherDigits[] = {{0xB2, 0xB3},       {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},
                                  {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
                                  {0x2474, 0x247C},   {0x2488, 0x2490},   {0x24EA, 0x24EA},   {0x24F5, 0x24FD},
                                  {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},   {0x278A, 0x2792},
                                  {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A}};
constexpr std::u32string_view kNumericIdeographs =
    U"\u3405\u3483\u382A\u3B4D\u4E00\u4E03\u4E07\u4E09\u4E5D\u4E8C\u4E94\u4E96\u4EBF\u4EC0\u4EDF\u4EE8\u4F0D\u4F70"
    U"\u5104\u5146\u5169\u516B\u516D\u5341\u5343\u5344\u5345\u534C\u53C1\u53C2\u53C3\u53C4\u56DB\u58F1\u58F9\u5E7A"
    U"\u5EFE\u5EFF\u5F0C\u5F0D\u5F0E\u5F10\u62FE\u634C\u67D2\u6F06\u7396\u767E\u8086\u842C\u8CAE\u8CB3\u8D30\u9621"
    U"\u9646\u964C\u9678\u96F6\uF96B\uF973\uF978\uF9B2\uF9D1\uF9D3\uF9FD\U00020001\U00020064\U000200E2\U00020121"
    U"\U0002092A\U00020983\U0002098C\U0002099C\U00020AEA\U00020AFD\U00020B19\U00022390\U00022998\U00023B1B"
    U"\U0002626D\U0002F890";

template <size_t kCount>
bool holds(const Range (&ranges)[kCount], char32_t c) {
  return std::any_of(std::begin(ranges), std::end(ranges),
                     [c](const Range& range) { return range.first <= c && c <= range.last; });
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

bool is_letter(char32_t c) {
  return category(c) >= UTF8PROC_CATEGORY_LU && category(c) <= UTF8PROC_CATEGORY_LO;
}

bool is_cased_letter(char32_t c) {
  return category(c) >= UTF8PROC_CATEGORY_LU && category(c) <= UTF8PROC_CATEGORY_LT;
}

bool is_number(char32_t c) {
  return category(c) >= UTF8PROC_CATEGORY_ND && category(c) <= UTF8PROC_CATEGORY_NO;
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

bool is_cased(char32_t c) {
  return is_lowercase(c) || is_uppercase(c) || category(c) == UTF8PROC_CATEGORY_LT;
}

// Sigma is the one letter whose lower case depends on its neighbours.
void append_lower(std::u32string& out, const std::u32string& text, size_t i) {
  constexpr char32_t kCapitalSigma = 0x3A3;
  constexpr char32_t kFinalSigma = 0x3C2;
  constexpr char32_t kCapitalDottedI = 0x130;
  if (text[i] == kCapitalSigma && i > 0 && is_cased(text[i - 1]) && (i + 1 == text.size() || !is_cased(text[i + 1]))) {
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
bool is_alpha(char32_t c) {
  return is_letter(c);
}
bool is_decimal(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_ND;
}
bool is_digit(char32_t c) {
  return is_decimal(c) || holds(kOtherDigits, c);
}
bool is_numeric(char32_t c) {
  return is_number(c) || kNumericIdeographs.find(c) != std::u32string_view::npos;
}
bool is_alphanumeric(char32_t c) {
  return is_letter(c) || is_number(c);
}
bool is_lowercase(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LL || holds(kOtherLowercase, c);
}
bool is_uppercase(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LU || holds(kOtherUppercase, c);
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
    inside_word = is_cased(in[i]);
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

std::string swap_case(std::string_view text) {
  const std::u32string in = decode_utf8(text);
  std::u32string out;
  for (size_t i = 0; i < in.size(); ++i) {
    if (is_uppercase(in[i])) {
      append_lower(out, in, i);
    } else if (is_lowercase(in[i])) {
      append_upper(out, in[i]);
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
