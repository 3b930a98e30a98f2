#pragma once

#include <string_view>

namespace deeptitan {

inline constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

/// `text` without the byte order mark that some editors put before UTF-8: it is no part of what was written.
inline std::string_view without_byte_order_mark(std::string_view text) {
  return text.starts_with(kByteOrderMark) ? text.substr(kByteOrderMark.size()) : text;
}

}  // namespace deeptitan
