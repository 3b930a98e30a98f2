#include "tokenizer/code_point_set.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace deeptitan {
namespace {

size_t size_of(const CodePointSet& set) {
  size_t size = 0;
  for (const CodePointSet::Range& range : set.ranges()) size += range.last - range.first + 1;
  return size;
}

TEST(CodePointSet, JoinsRangesThatTouchOrOverlap) {
  CodePointSet set({{10, 20}, {21, 30}, {5, 12}, {40, 40}});
  EXPECT_EQ(set.ranges(), (std::vector<CodePointSet::Range>{{5, 30}, {40, 40}}));
  set.add(31, 39);
  EXPECT_EQ(set.ranges(), (std::vector<CodePointSet::Range>{{5, 40}}));
  EXPECT_TRUE(set.contains(5));
  EXPECT_TRUE(set.contains(40));
  EXPECT_FALSE(set.contains(4));
  EXPECT_FALSE(set.contains(41));
  EXPECT_FALSE(CodePointSet().contains(0));
}

TEST(CodePointSet, ComplementOfComplementIsTheSet) {
  const CodePointSet set({{0, 3}, {7, 9}, {0x10FFFF, 0x10FFFF}});
  EXPECT_EQ(set.complement().ranges(), (std::vector<CodePointSet::Range>{{4, 6}, {10, 0x10FFFE}}));
  EXPECT_EQ(set.complement().complement(), set);
  EXPECT_EQ(CodePointSet().complement().ranges(), (std::vector<CodePointSet::Range>{{0, 0x10FFFF}}));
}

// The sizes that Oniguruma, as PyPI tokenizers 0.23.3 carries it, gives: Unicode 16.
TEST(UnicodeCategory, HasTheSizesOfUnicode16) {
  EXPECT_EQ(size_of(unicode_category("L")), 141028u);
  EXPECT_EQ(size_of(unicode_category("N")), 1911u);
  EXPECT_EQ(size_of(unicode_category("M")), 2501u);
  EXPECT_EQ(size_of(unicode_category("P")), 855u);
  EXPECT_EQ(size_of(unicode_category("S")), 8514u);
  EXPECT_EQ(size_of(unicode_numeric()), 1924u);
  EXPECT_EQ(size_of(unicode_white_space()), 25u);
}

TEST(UnicodeCategory, NamesWhatIsNotOne) {
  try {
    unicode_category("Han");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "\\p{Han} is not a general category; use one such as L, Lu, N, P, S, M, Z, or rewrite the pattern");
  }
}

TEST(UnicodeProperty, ScriptsByTheirNames) {
  const CodePointSet& han = unicode_property("Han");
  for (const char32_t c : {0x4E00U, 0x9FFFU, 0x3005U, 0x3007U, 0x2B739U, 0x2EBF0U, 0x323AFU})
    EXPECT_TRUE(han.contains(c));
  for (const char32_t c : {0x3006U, 0x3042U, 0x30A2U, 0xAC00U, 0x41U}) EXPECT_FALSE(han.contains(c));
  EXPECT_TRUE(unicode_property("Hiragana").contains(0x3042));
  EXPECT_EQ(&unicode_property("Lu"), &unicode_category("Lu"));
  for (const char* name : {"Nonsense", "Han}|(", "han", "", "x"}) {
    EXPECT_THROW(unicode_property(name), Error) << name;
  }
}

}  // namespace
}  // namespace deeptitan
