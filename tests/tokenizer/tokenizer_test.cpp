#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include "tokenizer/bpe_trainer.h"

namespace deeptitan {
namespace {

TEST(Tokenizer, TrainedRoundTrip) {
  const std::string_view text = "the cat sat on the mat. the cat ate the rat, 1234 times!\n";
  const Tokenizer tokenizer = train_bpe(std::span(&text, 1), {.vocab_size = 300});
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text), true), text);
}

}  // namespace
}  // namespace deeptitan
