#pragma once

#include <string_view>
#include <vector>

namespace deeptitan {

/// A set of Unicode code points, kept as sorted, disjoint, non-touching ranges.
class CodePointSet {
 public:
  struct Range {
    char32_t first;
    char32_t last;
    bool operator==(const Range&) const = default;
  };

  CodePointSet() = default;
  explicit CodePointSet(std::vector<Range> ranges);

  void add(char32_t first, char32_t last);
  void add(const CodePointSet& other);
  /// Every code point up to U+10FFFF that is not in the set.
  CodePointSet complement() const;

  bool contains(char32_t code_point) const;
  bool empty() const { return ranges_.empty(); }
  const std::vector<Range>& ranges() const { return ranges_; }
  bool operator==(const CodePointSet&) const = default;

 private:
  void normalize();

  std::vector<Range> ranges_;
};

/// The code points of a general category ("Lu") or a group of them ("L", "P"), as Unicode 16 has them: utf8proc's table
/// with the code points assigned since laid over it, so that the result does not depend on the version installed.
/// Throws Error for a name that is not a category.
const CodePointSet& unicode_category(std::string_view name);

/// The code points of a general category, or of a script by its long name ("Han", "Latin"): those that PCRE2 knows, and
/// for Han those of Unicode 16. Throws Error for a name that is neither.
const CodePointSet& unicode_property(std::string_view name);

/// White_Space of the Unicode Character Database: what `\s` means to Oniguruma and to Rust's regex crate.
const CodePointSet& unicode_white_space();

/// Numeric characters (categories Nd, Nl, No) of Unicode 17: what Rust's char::is_numeric means.
const CodePointSet& unicode_numeric();

/// Word characters of Unicode Technical Standard 18, annex C: alphabetic, marks, decimal digits, connector punctuation
/// and join controls.
const CodePointSet& unicode_word();

}  // namespace deeptitan
