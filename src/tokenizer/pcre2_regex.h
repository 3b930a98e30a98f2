#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace deeptitan {

/// What one thread needs to match with Pcre2Regex.
class Pcre2Scratch {
 public:
  Pcre2Scratch();
  ~Pcre2Scratch();
  Pcre2Scratch(const Pcre2Scratch&) = delete;
  Pcre2Scratch& operator=(const Pcre2Scratch&) = delete;

 private:
  friend class Pcre2Regex;
  struct State;
  std::unique_ptr<State> state_;
};

/// A compiled PCRE2 pattern (UTF, MULTILINE, just-in-time compiled where the machine can).
class Pcre2Regex {
 public:
  /// Throws Error with PCRE2's reason if `pattern` does not compile.
  explicit Pcre2Regex(const std::string& pattern);
  ~Pcre2Regex();
  Pcre2Regex(Pcre2Regex&&) noexcept;
  Pcre2Regex& operator=(Pcre2Regex&&) noexcept;

  /// The first match at or after byte `from` of `text` (valid UTF-8), as [first, second); {npos, npos} if there is
  /// none. Throws Error if the match needs more than a million steps.
  std::pair<size_t, size_t> find(std::string_view text, size_t from, Pcre2Scratch& scratch) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

}  // namespace deeptitan
