#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace deeptitan {

/// Watches streamed text for strings that end it. Text that may be the beginning of one is held back, so that nothing
/// of a stop string, nor what follows it, is ever given out. Hidden text (of special tokens) is never given out, but a
/// stop string may hold it, or end inside it: a string counts where it stands in the text with the hidden parts or in
/// the text without them.
class StopStrings {
 public:
  /// Throws a usage error for an empty string, and for one that is not UTF-8.
  explicit StopStrings(std::vector<std::string> strings);

  /// The text that can be given out now that `text` has come. Nothing more comes once a stop string was found.
  std::string push(std::string_view text) { return push(text, /*hidden=*/false); }
  /// The same for text that is not to be given out.
  std::string push_hidden(std::string_view text) { return push(text, /*hidden=*/true); }

  /// What is still held back, at the end of the text.
  std::string flush();

  bool found() const { return found_; }

 private:
  std::string push(std::string_view text, bool hidden);
  std::string visible(size_t end) const;

  std::vector<std::string> strings_;
  std::string held_;
  std::vector<bool> hidden_;  // a flag a byte of held_
  bool found_ = false;
};

/// `text` with its escapes read: \n, \t, \r, \0, \\, \xHH and \uHHHH (two of those for a pair of surrogates); any other
/// backslash is one. Throws a usage error that names `option` where a number's digits are missing, or the result is not
/// UTF-8.
std::string read_escapes(std::string_view text, std::string_view option);

}  // namespace deeptitan
