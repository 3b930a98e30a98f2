#include "generate/stop_strings.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace deeptitan {

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  for (const std::string& s : strings_) DT_CHECK_USAGE(!s.empty(), "a stop string must hold at least one character");
}

std::string StopStrings::push(std::string_view text) {
  if (found_) return {};
  held_ += text;
  // Of several, the one that is complete first: so the result does not depend on how the text was cut.
  size_t stop = std::string::npos;
  size_t complete = std::string::npos;
  for (const std::string& s : strings_) {
    const size_t place = held_.find(s);
    if (place == std::string::npos) continue;
    const size_t end = place + s.size();
    if (end < complete || (end == complete && place < stop)) {
      stop = place;
      complete = end;
    }
  }
  if (stop != std::string::npos) {
    found_ = true;
    std::string before = held_.substr(0, stop);
    held_.clear();
    return before;
  }
  // The longest end of the text that begins a stop string stays.
  size_t keep = 0;
  for (const std::string& s : strings_) {
    for (size_t n = std::min(held_.size(), s.size() - 1); n > keep; --n) {
      if (std::string_view(held_).substr(held_.size() - n) == std::string_view(s).substr(0, n)) keep = n;
    }
  }
  std::string free = held_.substr(0, held_.size() - keep);
  held_.erase(0, free.size());
  return free;
}

std::string StopStrings::flush() {
  return std::exchange(held_, {});
}

}  // namespace deeptitan
