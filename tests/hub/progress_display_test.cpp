#include "hub/progress_display.h"

#include <cstdlib>

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

/// What the display writes for a sequence of states.
std::string shown(bool terminal, const std::vector<std::vector<FileProgress>>& states) {
  char* text = nullptr;
  size_t length = 0;
  std::FILE* stream = ::open_memstream(&text, &length);
  {
    ProgressDisplay display(stream, terminal, 80);
    for (const auto& files : states) display.update(files);
  }
  std::fclose(stream);
  const std::string result(text, length);
  std::free(text);
  return result;
}

TEST(ProgressBarLine, FillsTheWidth) {
  const std::string half = progress_bar_line({"a.json", 500, 1000, 0, true, false}, 80);
  EXPECT_EQ(half.size(), 80u);
  EXPECT_EQ(half, "a.json                       [##########----------]  50 %  500 bytes of 1.0 kB  ");
  EXPECT_EQ(progress_bar_line({"a-very-long-name-of-a-file.safetensors", 0, 8'600'000'000, 0, true, false}, 80),
            "a-very-long-name-of-a-fi...  [--------------------]   0 %  0 bytes of 8.6 GB    ");
  EXPECT_EQ(progress_bar_line({"empty", 0, 0, 0, true, false}, 10).size(), 60u);
}

TEST(ProgressDisplay, PlainLinesWhenPiped) {
  EXPECT_EQ(
      shown(false,
            {{{"a", 0, 1000, 0, false, false}, {"b", 500, 1000, 500, false, false}, {"c", 9, 9, 9, false, true}},
             {{"a", 100, 1000, 0, true, false}, {"b", 700, 1000, 500, true, false}, {"c", 9, 9, 9, false, true}},
             {{"a", 150, 1000, 0, true, false}, {"b", 1000, 1000, 500, true, true}, {"c", 9, 9, 9, false, true}},
             {{"a", 1000, 1000, 0, true, true}, {"b", 1000, 1000, 500, true, true}, {"c", 9, 9, 9, false, true}}}),
      "c: 9 bytes (already there)\n"
      "20 % of 2.0 kB\n"
      "a: fetching 1.0 kB\n"
      "b: going on at 500 bytes of 1.0 kB\n"
      "40 % of 2.0 kB\n"
      "b: 1.0 kB\n"
      "50 % of 2.0 kB\n"
      "a: 1.0 kB\n"
      "100 % of 2.0 kB\n");
}

TEST(ProgressDisplay, ATerminalGetsBarsThatAreDrawnOver) {
  const std::string text = shown(true, {{{"a", 0, 1000, 0, true, false}, {"b", 0, 0, 0, false, false}},
                                        {{"a", 1000, 1000, 0, true, true}, {"b", 0, 0, 0, true, true}}});
  EXPECT_TRUE(text.starts_with("a     ")) << text;
  EXPECT_NE(text.find("[--------------------]   0 %  0 bytes of 1.0 kB"), std::string::npos) << text;
  // Two lines up, clear, then the finished files and the total alone.
  EXPECT_NE(text.find("\x1b[2F\x1b[Ja: 1.0 kB\nb: 0 bytes\n1.0 kB of 1.0 kB, 100 %, "), std::string::npos) << text;
}

}  // namespace
}  // namespace deeptitan
