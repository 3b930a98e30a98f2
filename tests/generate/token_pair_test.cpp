#include "generate/token_pair.h"

#include <string>

#include <gtest/gtest.h>

#include "generate/encode_prompt.h"
#include "generate/model_fixture.h"
#include "generate/text_generator.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

// Every character of which Python 3 says str.isspace().
constexpr char32_t kPythonSpaces[] = {0x09,   0x0A,   0x0B,   0x0C,   0x0D,   0x1C,   0x1D,   0x1E,   0x1F,   0x20,
                                      0x85,   0xA0,   0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006,
                                      0x2007, 0x2008, 0x2009, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000};

TEST(TokenPair, AllWhiteSpaceAtTheContextsEndGoesOver) {
  const Tokenizer tokenizer = testing::tiny_tokenizer();
  for (const char32_t space : kPythonSpaces) {
    std::string white = " ";
    append_utf8(white, space);
    const std::string context = "the light";
    EXPECT_EQ(length_without_trailing_space(context + white), context.size()) << static_cast<uint32_t>(space);
    const TokenPair pair = encode_pair(tokenizer, context + white, "God", "here");
    EXPECT_EQ(pair.context, encode_prompt(tokenizer, context));
    EXPECT_EQ(tokenizer.decode(pair.continuation), white + "God");
  }
}

TEST(TokenPair, WhatIsNotWhiteSpaceStays) {
  // A zero-width space, a Mongolian vowel separator, a word joiner, a byte order mark; half a character; a letter whose
  // last byte is that of a no-break space.
  for (const std::string text : {"a\u200b", "a\u180e", "a\u2060", "a\ufeff", "a\xa0", "a\x80\x80", "\u00e0", "a\x08"}) {
    EXPECT_EQ(length_without_trailing_space(text), text.size()) << text;
  }
  EXPECT_EQ(length_without_trailing_space(" \n\u3000"), 0u);
  EXPECT_EQ(length_without_trailing_space(""), 0u);
}

TEST(TokenPair, AContextOfWhiteSpaceIsAnEmptyOne) {
  const Tokenizer tokenizer = testing::tiny_tokenizer();
  const TokenPair pair = encode_pair(tokenizer, "\n \n", "God", "here");
  EXPECT_EQ(pair.context, std::vector<int32_t>{*tokenizer.bos_token_id()});
  EXPECT_EQ(tokenizer.decode(pair.continuation), "\n \nGod");
  expect_usage_error([&] { encode_pair(tokenizer, "a", "", "here"); }, "here: the continuation is empty");
}

}  // namespace
}  // namespace deeptitan
