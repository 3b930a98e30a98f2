#include "generate/stop_strings.h"

#include <string>

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

// What comes out for `text`, pushed in pieces of `size` bytes.
std::string pushed(StopStrings& stops, const std::string& text, size_t size) {
  std::string out;
  for (size_t i = 0; i < text.size(); i += size) out += stops.push(text.substr(i, size));
  if (!stops.found()) out += stops.flush();
  return out;
}

TEST(StopStrings, NothingOfAStopStringComesOutHoweverTheTextIsCut) {
  for (size_t size = 1; size < 12; ++size) {
    StopStrings stops({"END", "\n\n"});
    EXPECT_EQ(pushed(stops, "an EN, an E\nand an EEND of it", size), "an EN, an E\nand an E");
    EXPECT_TRUE(stops.found());
    EXPECT_EQ(stops.push("more"), "");
  }
}

TEST(StopStrings, OfSeveralTheOneThatIsCompleteFirstCounts) {
  for (size_t size = 1; size < 8; ++size) {
    StopStrings stops({"abcdef", "cd", "bcd"});
    EXPECT_EQ(pushed(stops, "xabcdef", size), "xa");
  }
}

TEST(StopStrings, WhatOnlyLooksLikeOneIsHeldBackThenGivenOut) {
  StopStrings stops({"abac"});
  EXPECT_EQ(stops.push("xab"), "x");
  EXPECT_EQ(stops.push("a"), "");
  EXPECT_EQ(stops.push("b"), "ab");
  EXPECT_EQ(stops.flush(), "ab");
  EXPECT_FALSE(stops.found());
}

TEST(StopStrings, HiddenTextEndsItAndIsNeverGivenOut) {
  const auto out = [](const std::vector<std::string>& strings, bool expected) {
    StopStrings stops(strings);
    std::string text = stops.push("one ");
    text += stops.push_hidden("<|a|>");
    text += stops.push("two");
    text += stops.push_hidden("<|b|>");
    text += stops.push(" three");
    if (!stops.found()) text += stops.flush();
    EXPECT_EQ(stops.found(), expected);
    return text;
  };
  EXPECT_EQ(out({"<|a|>"}, true), "one ");
  EXPECT_EQ(out({"<|b"}, true), "one two");  // a part of it
  EXPECT_EQ(out({"|><"}, false), "one two three");
  EXPECT_EQ(out({"two<|b|>"}, true), "one ");     // with the text before it
  EXPECT_EQ(out({"<|b|> th"}, true), "one two");  // and behind it
  EXPECT_EQ(out({"|>two<"}, true), "one ");
  EXPECT_EQ(out({"two three"}, true), "one ");  // as the reader sees it
  EXPECT_EQ(out({"e two"}, true), "on");
  EXPECT_EQ(out({"<|c|>"}, false), "one two three");
}

TEST(StopStrings, RefusesAnEmptyString) {
  expect_usage_error([] { StopStrings({"a", ""}); }, "a stop string must hold at least one character");
  expect_usage_error([] { StopStrings({"\xff"}); }, "a stop string is not UTF-8, and so would never be met");
}

TEST(ReadEscapes, ReadsThoseOfCAndLeavesOtherBackslashes) {
  EXPECT_EQ(read_escapes("a\\n\\n\\t\\r\\\\n", "--stop"), "a\n\n\t\r\\n");
  EXPECT_EQ(read_escapes("\\x41\\u00e4\\ud83d\\ude00\\xc3\\xa4", "--stop"), "A\u00e4\U0001F600\u00e4");
  EXPECT_EQ(read_escapes("\\end{document}\\", "--stop"), "\\end{document}\\");
  EXPECT_EQ(read_escapes("\\0", "--stop"), std::string(1, '\0'));
}

TEST(ReadEscapes, RefusesHalfANumberAndWhatIsNotUtf8) {
  for (const std::string text : {"\\x4", "\\x", "\\xg1"}) {
    expect_usage_error([&] { read_escapes(text, "--stop"); },
                       "--stop: \\x needs 2 hexadecimal digits; a backslash itself is written \\\\");
  }
  expect_usage_error([] { read_escapes("\\u12", "--stop"); },
                     "--stop: \\u needs 4 hexadecimal digits; a backslash itself is written \\\\");
  expect_usage_error([] { read_escapes("\\ud800", "--stop"); }, "--stop: \\ud800 is half a pair of surrogates");
  expect_usage_error([] { read_escapes("\\xff", "--stop"); }, "--stop: the text is not UTF-8");
}

}  // namespace
}  // namespace deeptitan
