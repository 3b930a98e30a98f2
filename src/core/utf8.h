#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace deeptitan {

/// What stands at the start of a byte sequence read as UTF-8 (Unicode Standard 15.0, table 3-7).
struct Utf8Unit {
  enum class Kind {
    kValid,       // one well-formed character
    kInvalid,     // an ill-formed maximal subpart, to be replaced by one U+FFFD
    kIncomplete,  // the bytes end inside what may still become a character
  };
  Kind kind;
  size_t length;        // bytes, at least 1
  char32_t code_point;  // U+FFFD unless valid
};

/// Reads the first character of `bytes`, which must not be empty.
Utf8Unit read_utf8_unit(std::string_view bytes);

/// Appends `code_point` (a Unicode scalar value) to `text` as UTF-8.
void append_utf8(std::string& text, char32_t code_point);

/// True if `text` is well-formed UTF-8 from its first to its last byte.
bool is_valid_utf8(std::string_view text);

/// Text made well-formed, and how often that took a replacement.
struct SanitizedText {
  std::string text;
  int64_t replaced_count = 0;
};

/// `text` with each maximal ill-formed part replaced by U+FFFD (Unicode Standard 15.0, section 3.9, "U+FFFD
/// Substitution of Maximal Subparts"; Python's and Rust's lossy decoders do the same).
SanitizedText utf8_sanitize(std::string_view text);

/// Turns a stream of bytes, cut anywhere, into well-formed text: a character is held back until it is whole, and what
/// can no longer become one is replaced as utf8_sanitize does. The pieces joined equal utf8_sanitize of the bytes
/// joined.
class Utf8Stream {
 public:
  /// The text that `bytes` completes; at most three bytes stay held back.
  std::string push(std::string_view bytes);

  /// What is still held back, as U+FFFD; the stream is then empty and can be used again.
  std::string flush();

 private:
  std::string held_;
};

}  // namespace deeptitan
