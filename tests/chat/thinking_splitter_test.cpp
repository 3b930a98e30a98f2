#include "chat/thinking_splitter.h"

#include <string>

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

// Thinking in brackets, whatever the pieces the text comes in.
std::string split(const std::string& text, bool opened, size_t size) {
  std::string out;
  bool inside = false;
  ThinkingSplitter splitter(opened, [&](std::string_view piece, bool thinking) {
    if (thinking != inside) out += thinking ? "[" : "]";
    inside = thinking;
    out += piece;
  });
  for (size_t i = 0; i < text.size(); i += size) splitter.push(text.substr(i, size));
  splitter.flush();
  return out;
}

TEST(ThinkingSplitter, TellsThinkingFromTheAnswerHoweverTheTextIsCut) {
  for (size_t size = 1; size < 20; ++size) {
    EXPECT_EQ(split("<think>a < b</thin</think>so <b</think>", false, size), "[a < b</thin]so <b</think>");
    EXPECT_EQ(split("hm</think>yes", true, size), "[hm]yes");
    EXPECT_EQ(split("no tags, but <thi", false, size), "no tags, but <thi");
    EXPECT_EQ(split("never closed</", true, size), "[never closed</");
  }
}

TEST(ThinkingSplitter, APromptOpensTheThinkingOnlyAtItsEnd) {
  EXPECT_TRUE(ends_in_thinking("<Assistant><think>\n"));
  EXPECT_TRUE(ends_in_thinking("<think>"));
  EXPECT_FALSE(ends_in_thinking("<Assistant><think></think>"));
  EXPECT_FALSE(ends_in_thinking("what is <think> for?<Assistant>"));
  EXPECT_FALSE(ends_in_thinking(""));
}

}  // namespace
}  // namespace deeptitan
