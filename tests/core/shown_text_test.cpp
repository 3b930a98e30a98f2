#include "core/shown_text.h"

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

TEST(ShownText, EscapesWhatATerminalWouldObey) {
  EXPECT_EQ(shown("model.layers.0"), "model.layers.0");
  EXPECT_EQ(shown("a\x1b[31mb\x07\r\n\t\x7f"), "a\\x1b[31mb\\x07\\r\\n\\t\\x7f");
  EXPECT_EQ(shown("\u00e9\u202e\u2066x\u009b"), "\u00e9\\u202e\\u2066x\\x9b");
  EXPECT_EQ(shown("\xff\xc3x\xed\xa0\x80"), "\\xff\\xc3x\\xed\\xa0\\x80");
}

TEST(ShownText, CutsBetweenCharacters) {
  EXPECT_EQ(shown("abcdef", 6), "abcdef");
  EXPECT_EQ(shown("abcdefg", 6), "abcdef... (7 bytes)");
  EXPECT_EQ(shown("ab\u00e9", 3), "ab... (4 bytes)");
}

TEST(ShownText, AMessageKeepsItsLines) {
  EXPECT_EQ(printable_message("tensor \x1b]0;x\x07:\n  \u00e9 \xff"), "tensor \\x1b]0;x\\x07:\n  \u00e9 \\xff");
  EXPECT_LT(printable_message(std::string(700'000, 'x')).size(), 16'100u);
}

}  // namespace
}  // namespace deeptitan
