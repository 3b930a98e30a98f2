#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace deeptitan::jinja {

// Python's str, on well-formed UTF-8: positions and lengths count characters (code points), not bytes.

/// Number of characters in `text`.
size_t character_count(std::string_view text);

/// Byte offset of character `index`, at most text.size().
size_t byte_offset(std::string_view text, size_t index);

/// `text` as code points.
std::u32string decode_utf8(std::string_view text);

/// Code points as UTF-8.
std::string encode_utf8(std::u32string_view text);

bool is_space(char32_t c);
bool is_printable(char32_t c);
bool is_alphanumeric(char32_t c);

/// str.lower(), with the full mapping; a capital sigma that ends a word becomes a final sigma.
std::string to_lower(std::string_view text);
/// str.upper(), with the full mapping (a sharp s becomes two letters).
std::string to_upper(std::string_view text);
/// str.title(): each run of cased letters starts with a title-case letter and goes on in lower case.
std::string to_title(std::string_view text);
/// str.capitalize(): the first character in title case, the others in lower case.
std::string capitalize(std::string_view text);
/// str.strip() and its one-sided forms: without `characters`, whitespace is removed.
std::string_view strip_left(std::string_view text, const std::string* characters = nullptr);
std::string_view strip_right(std::string_view text, const std::string* characters = nullptr);

}  // namespace deeptitan::jinja
