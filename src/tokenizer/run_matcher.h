#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "tokenizer/regex_pattern.h"

namespace deeptitan {

/// Numbers code points so that two with the same number are in the same ones of a list of sets. A character class is
/// then a table of 256 bits, and a text is looked at once for all patterns.
class CodePointClasses {
 public:
  /// Nothing if the sets tell more than 256 kinds of code points apart, or would take too long to sort out.
  static std::optional<CodePointClasses> build(const std::vector<CodePointSet>& sets);

  /// For each byte of `text` (valid UTF-8) the number of its character.
  void classify(std::string_view text, std::vector<uint8_t>& classes) const;

  /// Which numbers are members of sets[index].
  const std::array<bool, 256>& members(size_t index) const { return members_[index]; }

 private:
  uint8_t class_of(char32_t code_point) const { return pages_[page_of_[code_point >> 8]][code_point & 0xFF]; }

  std::vector<uint16_t> page_of_;
  std::vector<std::array<uint8_t, 256>> pages_;
  std::vector<std::array<bool, 256>> members_;
};

/// Finds the matches of a pattern of runs as a backtracking regex engine would: alternatives in order, quantifiers
/// greedy. Time is linear in the text.
class RunMatcher {
 public:
  /// True if a pattern of this form can be matched without risk of exponential or quadratic time.
  static bool supports(const std::vector<RunAlternative>& alternatives);

  /// The sets that the pattern uses, in the order in which the constructor looks them up.
  static void collect_sets(const std::vector<RunAlternative>& alternatives, std::vector<CodePointSet>& sets);

  /// `first_set` is the position of this pattern's first set in the list given to CodePointClasses::build.
  RunMatcher(const std::vector<RunAlternative>& alternatives, const CodePointClasses& classes, size_t first_set);

  /// Calls piece(begin, end) for the parts of text[begin, end) in order, each either a match or what lies between two.
  /// `classes` are those of the whole text; what lies outside [begin, end) is not looked at.
  template <typename Piece>
  void split(std::string_view text, const uint8_t* classes, size_t begin, size_t end, const Piece& piece) const {
    std::array<size_t, kMaxAlternatives> no_match_before;
    no_match_before.fill(0);
    size_t unmatched = begin;
    for (size_t at = begin; at < end;) {
      const size_t stop = match(text, classes, at, end, no_match_before);
      if (stop == kNoMatch) {
        at += character_length(text[at]);
        continue;
      }
      if (unmatched < at) piece(unmatched, at);
      piece(at, stop);
      unmatched = at = stop;
    }
    if (unmatched < end) piece(unmatched, end);
  }

 private:
  static constexpr size_t kMaxAlternatives = 16;
  static constexpr size_t kNoMatch = static_cast<size_t>(-1);

  struct Item {
    const std::array<bool, 256>* members;
    uint32_t min;
    uint32_t max;
    bool rest_always_matches;
  };
  struct Alternative {
    std::vector<Item> items;
    RunAlternative::End end;
    const std::array<bool, 256>* end_members;
  };
  struct Span {
    std::string_view text;
    const uint8_t* classes;
    size_t end;
  };

  static size_t character_length(char lead) {
    const auto byte = static_cast<unsigned char>(lead);
    return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
  }

  size_t match(std::string_view text, const uint8_t* classes, size_t at, size_t end,
               std::array<size_t, kMaxAlternatives>& no_match_before) const {
    for (uint32_t candidates = starts_[classes[at]]; candidates != 0; candidates &= candidates - 1) {
      const auto index = static_cast<size_t>(__builtin_ctz(candidates));
      if (at < no_match_before[index]) continue;
      const size_t stop = match_items(alternatives_[index], 0, {text, classes, end}, at, no_match_before[index]);
      if (stop != kNoMatch) return stop;
    }
    return kNoMatch;
  }

  size_t match_items(const Alternative& alternative, size_t index, const Span& span, size_t at,
                     size_t& no_match_before) const;
  bool end_holds(const Alternative& alternative, const Span& span, size_t at) const;

  std::vector<Alternative> alternatives_;
  std::array<uint32_t, 256> starts_;  // for each class of character, the alternatives that can start with it
};

}  // namespace deeptitan
