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
/// pieces of the one before at the bounds of its matches (behaviour Isolated), seeing one piece at a time.
class PreTokenizer {
 public:
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

  /// Appends to `ends` the byte offset at which each piece of `text` (valid UTF-8) ends; the last is text.size().
  void split(std::string_view text, Scratch& scratch, std::vector<size_t>& ends) const;

 private:
  using Stage = std::variant<RunMatcher, Pcre2Regex>;

  void split_stage(size_t stage, std::string_view text, size_t begin, size_t end, Scratch& scratch,
                   std::vector<size_t>& ends) const;

  std::unique_ptr<const CodePointClasses> classes_;  // the matchers of stages_ point into it
  std::vector<Stage> stages_;
};

}  // namespace deeptitan
