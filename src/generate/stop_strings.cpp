#include "generate/stop_strings.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/utf8.h"

namespace deeptitan {
namespace {

// A text made of some of held_'s bytes, and where each of them stands there.
struct View {
  std::string text;
  std::vector<size_t> place;
};

// Bytes of `text` at its end that begin one of `strings`, without being one.
size_t beginning_at_end(std::string_view text, const std::vector<std::string>& strings) {
  size_t keep = 0;
  for (const std::string& s : strings) {
    for (size_t n = std::min(text.size(), s.size() - 1); n > keep; --n) {
      if (text.substr(text.size() - n) == std::string_view(s).substr(0, n)) keep = n;
    }
  }
  return keep;
}

}  // namespace

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  for (const std::string& s : strings_) {
    DT_CHECK_USAGE(!s.empty(), "a stop string must hold at least one character");
    DT_CHECK_USAGE(is_valid_utf8(s), "a stop string is not UTF-8, and so would never be met");
  }
}

std::string StopStrings::visible(size_t end) const {
  std::string text;
  for (size_t i = 0; i < end; ++i) {
    if (!hidden_[i]) text += held_[i];
  }
  return text;
}

std::string StopStrings::push(std::string_view text, bool hidden) {
  if (found_) return {};
  held_ += text;
  hidden_.resize(held_.size(), hidden);
  View whole{held_, std::vector<size_t>(held_.size())};
  std::iota(whole.place.begin(), whole.place.end(), 0);
  View shown;
  for (size_t i = 0; i < held_.size(); ++i) {
    if (hidden_[i]) continue;
    shown.text += held_[i];
    shown.place.push_back(i);
  }
  // Of several, the one that is complete first: so the result does not depend on how the text was cut.
  size_t stop = std::string::npos;
  size_t complete = std::string::npos;
  size_t keep_from = held_.size();
  for (const View* view : {&whole, &shown}) {
    for (const std::string& s : strings_) {
      const size_t found = view->text.find(s);
      if (found == std::string::npos) continue;
      const size_t begin = view->place[found];
      const size_t end = view->place[found + s.size() - 1] + 1;
      if (end < complete || (end == complete && begin < stop)) {
        stop = begin;
        complete = end;
      }
    }
    const size_t keep = beginning_at_end(view->text, strings_);
    if (keep > 0) keep_from = std::min(keep_from, view->place[view->text.size() - keep]);
  }
  found_ = stop != std::string::npos;
  const size_t free = found_ ? stop : keep_from;
  std::string out = visible(free);
  held_.erase(0, found_ ? std::string::npos : free);
  hidden_.erase(hidden_.begin(), hidden_.end() - static_cast<int64_t>(held_.size()));
  return out;
}

std::string StopStrings::flush() {
  std::string out = visible(held_.size());
  held_.clear();
  hidden_.clear();
  return out;
}

std::string read_escapes(std::string_view text, std::string_view option) {
  std::string out;
  const auto number_at = [&](size_t at, size_t digits) {
    uint32_t value = 0;
    const std::string_view part = at < text.size() ? text.substr(at, digits) : std::string_view();
    const auto [rest, error] = std::from_chars(part.data(), part.data() + part.size(), value, 16);
    DT_CHECK_USAGE(error == std::errc() && part.size() == digits && rest == part.data() + digits,
                   "{}: \\{} needs {} hexadecimal digits; a backslash itself is written \\\\", option, text[at - 1],
                   digits);
    return value;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char next = text[i] == '\\' && i + 1 < text.size() ? text[i + 1] : '\0';
    if (const size_t known = std::string_view("ntr0\\").find(next); next != '\0' && known != std::string_view::npos) {
      out += std::string_view("\n\t\r\0\\", 5)[known];
      ++i;
    } else if (next == 'x') {
      out += static_cast<char>(number_at(i + 2, 2));
      i += 3;
    } else if (next == 'u') {
      uint32_t code_point = number_at(i + 2, 4);
      i += 5;
      if (0xD800 <= code_point && code_point < 0xDC00 && text.substr(i + 1).starts_with("\\u")) {
        const uint32_t low = number_at(i + 3, 4);
        if (0xDC00 <= low && low < 0xE000) {
          code_point = 0x10000 + ((code_point - 0xD800) << 10) + (low - 0xDC00);
          i += 6;
        }
      }
      DT_CHECK_USAGE(code_point < 0xD800 || code_point >= 0xE000, "{}: \\u{:04x} is half a pair of surrogates", option,
                     code_point);
      append_utf8(out, code_point);
    } else {
      out += text[i];
    }
  }
  DT_CHECK_USAGE(is_valid_utf8(out), "{}: the text is not UTF-8", option);
  return out;
}

}  // namespace deeptitan
