#pragma once

#include <cstdint>
#include <span>

namespace deeptitan::jinja {

/// The characters first, first + stride, ... last. Tables are sorted by first; ranges of stride 2 may interleave.
struct UnicodeRange {
  char32_t first;
  char32_t last;
  uint32_t stride;
};

/// As UnicodeRange, for characters that map to themselves plus `delta`.
struct CaseRange {
  char32_t first;
  char32_t last;
  uint32_t stride;
  int32_t delta;
};

/// A character that maps to two or three; unused places are 0.
struct SpecialCase {
  char32_t from;
  char32_t to[3];
};

// What Python's str.isprintable (negated), isalpha, isdecimal, isdigit, isnumeric, islower, isupper, lower, upper and
// title know of single characters.
extern const std::span<const UnicodeRange> kNotPrintable;
extern const std::span<const UnicodeRange> kAlpha;
extern const std::span<const UnicodeRange> kDecimal;
extern const std::span<const UnicodeRange> kDigit;
extern const std::span<const UnicodeRange> kNumeric;
extern const std::span<const UnicodeRange> kLowercase;
extern const std::span<const UnicodeRange> kUppercase;
extern const std::span<const CaseRange> kToLower;
extern const std::span<const SpecialCase> kToLowerSpecial;
extern const std::span<const CaseRange> kToUpper;
extern const std::span<const SpecialCase> kToUpperSpecial;
extern const std::span<const CaseRange> kToTitle;
extern const std::span<const SpecialCase> kToTitleSpecial;

}  // namespace deeptitan::jinja
