#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace deeptitan {

/// Warns where parts of a text had to be replaced. The warning begins with `source`.
void warn_of_replaced(std::string_view source, int64_t sequences);

/// `text` as valid UTF-8. Where parts had to be replaced, a warning that begins with `source` says how many.
std::string valid_text(std::string text, std::string_view source);

/// valid_text of what a file or pipe holds, without the byte order mark that some editors put first.
std::string valid_file_text(std::string_view text, std::string_view source);

}  // namespace deeptitan
