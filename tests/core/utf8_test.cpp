#include "core/utf8.h"

#include <random>
#include <string>

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

TEST(Utf8Sanitize, LeavesWellFormedTextAlone) {
  const std::string text = "plain, \xC3\xA9t\xC3\xA9, \xE4\xB8\xAD\xE6\x96\x87, \xF0\x9F\x98\x80";
  EXPECT_TRUE(is_valid_utf8(text));
  const SanitizedText result = utf8_sanitize(text);
  EXPECT_EQ(result.text, text);
  EXPECT_EQ(result.replaced_count, 0);
}

TEST(Utf8Sanitize, ReplacesEachMaximalSubpartOnce) {
  const std::string r = "\xEF\xBF\xBD";
  const struct {
    std::string bytes, expected;
    int64_t count;
  } cases[] = {
      {"", "", 0},
      {"a\x80z", "a" + r + "z", 1},
      {"\xC0\x80", r + r, 2},                  // an overlong form: neither byte starts a character
      {"\xED\xA0\x80", r + r + r, 3},          // a surrogate
      {"\xF4\x90\x80\x80", r + r + r + r, 4},  // beyond U+10FFFF
      {"\xE4\xB8z", r + "z", 1},               // two bytes of three
      {"\xF0\x9F\x98", r, 1},                  // three bytes of four, then the end
      {"\xF0\x9F\xE4\xB8\xAD", r + "\xE4\xB8\xAD", 1},
  };
  for (const auto& c : cases) {
    const SanitizedText result = utf8_sanitize(c.bytes);
    EXPECT_EQ(result.text, c.expected);
    EXPECT_EQ(result.replaced_count, c.count);
    EXPECT_EQ(is_valid_utf8(c.bytes), c.count == 0);
  }
}

TEST(Utf8Unit, EveryScalarValueSurvivesTheRoundTrip) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    const Utf8Unit unit = read_utf8_unit(text);
    ASSERT_EQ(unit.kind, Utf8Unit::Kind::kValid);
    ASSERT_EQ(unit.length, text.size());
    ASSERT_EQ(unit.code_point, c);
  }
}

TEST(Utf8Stream, NeverEmitsPartOfACharacter) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xF0\x9F"), "a");
  EXPECT_EQ(stream.push("\x98"), "");
  EXPECT_EQ(stream.push("\x80!"), "\xF0\x9F\x98\x80!");
  EXPECT_EQ(stream.push("\xE4\xB8"), "");
  EXPECT_EQ(stream.flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.flush(), "");
}

TEST(Utf8Stream, PiecesJoinedEqualTheWholeSanitized) {
  std::mt19937 random(20260117);
  const std::string alphabet[] = {"a",    "\xC3\xA9", "\xE4\xB8\xAD", "\xF0\x9F\x98\x80", "\x80",
                                  "\xE4", "\xF0\x9F", "\xFF",         "\xED\xA0"};
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (int i = 0; i < 20; ++i) bytes += alphabet[random() % std::size(alphabet)];
    Utf8Stream stream;
    std::string joined;
    for (size_t at = 0; at < bytes.size();) {
      const size_t length = std::min<size_t>(1 + random() % 4, bytes.size() - at);
      const std::string piece = stream.push(std::string_view(bytes).substr(at, length));
      ASSERT_TRUE(is_valid_utf8(piece));
      joined += piece;
      at += length;
    }
    joined += stream.flush();
    ASSERT_EQ(joined, utf8_sanitize(bytes).text);
  }
}

}  // namespace
}  // namespace deeptitan
