#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "tokenizer/pcre2_regex.h"
#include "tokenizer/regex_pattern.h"
#include "tokenizer/run_matcher.h"

namespace deeptitan {

/// Cuts a text into the pieces that byte-pair encoding works on, by a sequence of regular expressions: each cuts the
/// pieces of the one before at the bounds of its matches (behaviour Isolated, or Removed for what RegexPattern::kept
/// leaves out), seeing one piece at a time.
class PreTokenizer {
 public:
  /// Bytes begin to end (not included) of a text.
  struct Piece {
    size_t begin;
    size_t end;
    bool operator==(const Piece&) const = default;
  };

  /// What one thread needs for split.
  struct Scratch {
    std::vector<uint8_t> classes;
    std::unique_ptr<Pcre2Scratch> pcre2;
  };

  enum class Engine {
    kFastest,  // class runs where a pattern has that form, PCRE2 for the others
    kPcre2,    // PCRE2 for all: the reference that tests compare with
  };

  PreTokenizer() : PreTokenizer({}, Engine::kFastest) {}
  PreTokenizer(const std::vector<RegexPattern>& patterns, Engine engine);

  /// Appends the pieces of `text` (valid UTF-8) in order; they cover it unless a pattern leaves some out.
  void split(std::string_view text, Scratch& scratch, std::vector<Piece>& pieces) const;

 private:
  void split_stage(size_t stage, std::string_view text, size_t begin, size_t end, Scratch& scratch,
                   std::vector<Piece>& pieces) const;

  struct Regex {
    Pcre2Regex regex;
    RegexPattern::Kept kept;
  };

  std::unique_ptr<const CodePointClasses> classes_;  // the matchers of stages_ point into it
  std::vector<std::variant<RunMatcher, Regex>> stages_;
};

}  // namespace deeptitan
