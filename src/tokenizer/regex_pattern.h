#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/code_point_set.h"

namespace deeptitan {

/// One character class with a greedy quantifier: at least `min`, at most `max` of it.
struct RunItem {
  static constexpr uint32_t kUnbounded = std::numeric_limits<uint32_t>::max();

  CodePointSet set;
  uint32_t min = 1;
  uint32_t max = 1;
};

/// A sequence of runs, with what must hold where it ends.
struct RunAlternative {
  enum class End {
    kAnywhere,
    kNotBefore,  // (?!X): the text ends, or the next character is not in end_set
    kLineEnd,    // $: the text ends, or the next character is a line feed
  };

  std::vector<RunItem> items;
  End end = End::kAnywhere;
  CodePointSet end_set;
};

/// A regular expression as tokenizer.json holds it.
struct RegexPattern {
  /// Which pieces of a text a split leaves: those that match, those between, or both.
  enum class Kept { kAll, kMatches, kGaps };

  Kept kept = Kept::kAll;
  /// The same expression for PCRE2 (flags UTF and MULTILINE), every class written out as ranges of code points.
  std::string pcre2;
  /// The same expression as alternatives tried in order, where it consists of nothing but runs of classes.
  std::optional<std::vector<RunAlternative>> runs;
};

/// Reads `pattern`, a regular expression in Oniguruma's Ruby syntax, as PyPI tokenizers understands it (UTF-8; `\s` is
/// White_Space, `\d` is Nd, `^` and `$` match at every line, classes are those of Unicode 16). Throws Error that names
/// the construct where it is one whose meaning differs between Oniguruma and PCRE2, or is not understood here.
RegexPattern parse_regex(std::string_view pattern);

/// A pattern that matches `text` itself and nothing else.
RegexPattern literal_pattern(std::string_view text);

}  // namespace deeptitan
