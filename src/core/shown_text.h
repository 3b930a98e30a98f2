#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace deeptitan {

/// Text from a foreign file as a message or a terminal may hold it: control characters (terminal escapes, line ends),
/// characters that turn the direction of a line, and bytes that are no UTF-8 are written as `\x1b`, `\n`, `\u202e`. A
/// text of more than `most` bytes is cut between characters and its length is said: "abc... (700000 bytes)".
std::string shown(std::string_view text, size_t most = 120);

/// A whole message, line ends and tabs kept; what else `shown` escapes is escaped, and it is cut after 16,000 bytes.
std::string printable_message(std::string_view message);

}  // namespace deeptitan
