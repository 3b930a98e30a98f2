#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace deeptitan {

/// The printable character that stands for each byte in the tokens of a byte-level vocabulary: GPT-2's table. Printable
/// bytes of Latin-1 stand for themselves; the other 68 are U+0100 and up, in order.
const std::array<char32_t, 256>& byte_level_characters();

/// `bytes` as the text of a byte-level token.
std::string byte_level_encode(std::string_view bytes);

/// The bytes that `token` stands for; nothing if one of its characters stands for no byte.
std::optional<std::string> byte_level_decode(std::string_view token);

}  // namespace deeptitan
