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

TEST(StopStrings, RefusesAnEmptyString) {
  expect_usage_error([] { StopStrings({"a", ""}); }, "a stop string must hold at least one character");
}

}  // namespace
}  // namespace deeptitan
