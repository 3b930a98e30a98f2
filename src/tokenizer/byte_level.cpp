#include "tokenizer/byte_level.h"

#include "core/utf8.h"

namespace deeptitan {
namespace {

constexpr size_t kCharacters = 0x100 + 68;

// For each character below kCharacters the byte it stands for, or -1.
const std::array<int, kCharacters>& bytes_of_characters() {
  static const auto table = [] {
    std::array<int, kCharacters> bytes;
    bytes.fill(-1);
    for (size_t byte = 0; byte < 256; ++byte) bytes[byte_level_characters()[byte]] = static_cast<int>(byte);
    return bytes;
  }();
  return table;
}

}  // namespace

const std::array<char32_t, 256>& byte_level_characters() {
  static const auto table = [] {
    std::array<char32_t, 256> characters;
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      characters[byte] = printable ? byte : next++;
    }
    return characters;
  }();
  return table;
}

std::string byte_level_encode(std::string_view bytes) {
  std::string token;
  for (const char byte : bytes) append_utf8(token, byte_level_characters()[static_cast<unsigned char>(byte)]);
  return token;
}

std::optional<std::string> byte_level_decode(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const Utf8Unit unit = read_utf8_unit(token);
    if (unit.code_point >= kCharacters || bytes_of_characters()[unit.code_point] < 0) return std::nullopt;
    bytes += static_cast<char>(bytes_of_characters()[unit.code_point]);
    token.remove_prefix(unit.length);
  }
  return bytes;
}

}  // namespace deeptitan
