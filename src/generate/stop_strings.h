#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace deeptitan {

/// Watches streamed text for strings that end it. Text that may be the beginning of one is held back, so that nothing
/// of a stop string, nor what follows it, is ever given out.
class StopStrings {
 public:
  /// Throws a usage error for an empty string.
  explicit StopStrings(std::vector<std::string> strings);

  /// The text that can be given out now that `text` has come. Nothing more comes once a stop string was found.
  std::string push(std::string_view text);

  /// What is still held back, at the end of the text.
  std::string flush();

  bool found() const { return found_; }

 private:
  std::vector<std::string> strings_;
  std::string held_;
  bool found_ = false;
};

}  // namespace deeptitan
