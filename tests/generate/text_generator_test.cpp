#include "generate/text_generator.h"

#include <string>

#include <gtest/gtest.h>
#include <omp.h>

#include "core/utf8.h"
#include "generate/encode_prompt.h"
#include "generate/model_fixture.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

using testing::drawn_engine;

class TextGeneratorTest : public ::testing::Test {
 protected:
  const ModelConfig config_ = testing::with_tokenizer(testing::tiny_v3());
  const Tokenizer tokenizer_ = testing::tiny_tokenizer();

  Generation generate(InferenceEngine& engine, const std::string& prompt, const GenerationOptions& options,
                      std::vector<int32_t> end_ids = {}) {
    TextGenerator generator(engine, tokenizer_, std::move(end_ids));
    std::string streamed;
    const Generation result =
        generator.generate(encode_prompt(tokenizer_, prompt), options, [&](std::string_view piece) {
          EXPECT_TRUE(is_valid_utf8(piece));
          EXPECT_FALSE(piece.empty());
          streamed += piece;
        });
    EXPECT_EQ(streamed, result.text);
    return result;
  }
};

TEST_F(TextGeneratorTest, StreamsTheTextOfItsTokens) {
  const auto engine = drawn_engine(config_);
  const Generation result = generate(*engine, "And God saw", {.max_new_tokens = 30, .sampling = {.seed = 4}});
  EXPECT_EQ(result.reason, StopReason::kMaxNewTokens);
  EXPECT_EQ(result.tokens.size(), 30u);
  EXPECT_EQ(result.decoded_tokens, 29);
  EXPECT_EQ(result.text, tokenizer_.decode(result.tokens, /*skip_special_tokens=*/true));
  for (const int32_t id : result.tokens) EXPECT_LT(id, tokenizer_.vocab_size());
}

TEST_F(TextGeneratorTest, ASeedGivesTheSameTextOnAnyNumberOfThreadsAndWithAWarmCache) {
  const GenerationOptions options{.max_new_tokens = 25, .sampling = {.temperature = 0.9, .seed = 11}};
  const int threads = omp_get_max_threads();
  const auto engine = drawn_engine(config_);
  const std::vector<int32_t> expected = generate(*engine, "the light", options).tokens;
  omp_set_num_threads(3);
  const auto another = drawn_engine(config_);
  EXPECT_EQ(generate(*another, "the light", options).tokens, expected);
  omp_set_num_threads(threads);
  const Generation again = generate(*engine, "the light", options);
  EXPECT_EQ(again.tokens, expected);
  EXPECT_EQ(again.cached_tokens, again.prompt_tokens - 1);
}

TEST_F(TextGeneratorTest, EndsAtAnEndOfTextTokenWithoutItsText) {
  const auto engine = drawn_engine(config_);
  const GenerationOptions options{.max_new_tokens = 20, .sampling = {.seed = 4}};
  const std::vector<int32_t> tokens = generate(*engine, "a", options).tokens;
  const int32_t end = tokens[6];
  const Generation result = generate(*engine, "a", options, {end});
  EXPECT_EQ(result.reason, StopReason::kEndOfText);
  EXPECT_EQ(result.tokens.back(), end);
  const size_t length = std::find(tokens.begin(), tokens.end(), end) - tokens.begin();
  EXPECT_EQ(result.tokens.size(), length + 1);
  EXPECT_EQ(result.text, tokenizer_.decode(std::span(tokens).first(length), true));
}

TEST_F(TextGeneratorTest, NothingOfAStopStringIsGivenOut) {
  const auto engine = drawn_engine(config_);
  GenerationOptions options{.max_new_tokens = 30, .sampling = {.seed = 4}};
  const std::string text = generate(*engine, "a", options).text;
  ASSERT_GT(text.size(), 12u);
  options.stop = {text.substr(8, 4), "never to be seen"};
  const Generation result = generate(*engine, "a", options);
  EXPECT_EQ(result.reason, StopReason::kStopString);
  EXPECT_EQ(result.text, text.substr(0, text.find(options.stop[0])));
}

TEST_F(TextGeneratorTest, ASpecialTokensTextEndsTheText) {
  const auto engine = drawn_engine(config_);
  // Nearly uniform, so that a special token comes soon.
  GenerationOptions options{.max_new_tokens = 400, .sampling = {.temperature = 50}};
  std::vector<int32_t> tokens;
  auto special = tokens.end();
  while (special == tokens.end()) {
    ++options.sampling.seed;
    tokens = generate(*engine, "a", options).tokens;
    special = std::find_if(tokens.begin(), tokens.end(), [&](int32_t id) { return tokenizer_.is_special_token(id); });
  }
  const std::vector<int32_t> before(tokens.begin(), special);
  for (const size_t cut : {size_t{0}, size_t{4}}) {  // the whole text of it, and a part (without "<｜")
    options.stop = {std::string(tokenizer_.token_bytes(*special).substr(cut))};
    const Generation result = generate(*engine, "a", options);
    EXPECT_EQ(result.reason, StopReason::kStopString);
    EXPECT_EQ(result.tokens.size(), before.size() + 1);
    StreamingDecoder decoder(tokenizer_);
    std::string text;
    for (const int32_t id : before) text += decoder.push(id);
    EXPECT_EQ(result.text, text);
  }
}

TEST_F(TextGeneratorTest, WhatOverflowsIsAnErrorThatNamesTheOp) {
  testing::DrawnModel drawn(config_);
  const Tensor norm = drawn.model.parameters().find("model.norm.weight")->value;
  std::fill_n(norm.host<float>(), norm.numel(), 3e38f);
  InferenceEngine engine(config_, {});
  engine.allocate();
  engine.load(drawn.model);
  TextGenerator generator(engine, tokenizer_, {});
  const std::vector<int32_t> prompt = encode_prompt(tokenizer_, "a");
  const std::string message = message_of([&] { generator.generate(prompt, {}, [](std::string_view) {}); });
  EXPECT_TRUE(message.starts_with("the logits for the token at place 2 are not finite: ")) << message;
  EXPECT_NE(message.find(". First: "), std::string::npos) << message;
  EXPECT_NE(message.find(" gave a value that is not finite in its output "), std::string::npos) << message;
}

TEST_F(TextGeneratorTest, AFullContextEndsTheText) {
  const auto engine = drawn_engine(config_, {.context_length = 12});
  const Generation result = generate(*engine, "a", {.max_new_tokens = 1000, .sampling = {.seed = 4}});
  EXPECT_EQ(result.reason, StopReason::kContextFull);
  EXPECT_EQ(engine->length(), 12);
  EXPECT_EQ(result.prompt_tokens + static_cast<int64_t>(result.tokens.size()), 13);
}

TEST_F(TextGeneratorTest, TheCallerCanEndIt) {
  const auto engine = drawn_engine(config_);
  TextGenerator generator(*engine, tokenizer_, {});
  int asked = 0;
  const std::vector<int32_t> prompt = encode_prompt(tokenizer_, "a");
  const auto ignore = [](std::string_view) {};
  const Generation result =
      generator.generate(prompt, {.sampling = {.seed = 4}, .interrupted = [&] { return ++asked == 4; }}, ignore);
  EXPECT_EQ(result.reason, StopReason::kInterrupted);
  EXPECT_EQ(result.tokens.size(), 3u);
  engine->truncate(0);
  const Generation none = generator.generate(prompt, {.interrupted = [] { return true; }}, ignore);
  EXPECT_EQ(none.reason, StopReason::kInterrupted);
  EXPECT_TRUE(none.tokens.empty());
}

TEST_F(TextGeneratorTest, RefusesAPromptThatLeavesNoRoom) {
  const auto engine = drawn_engine(config_, {.context_length = 4});
  TextGenerator generator(*engine, tokenizer_, {});
  const std::vector<int32_t> prompt = {0, 5, 6, 7};
  expect_usage_error([&] { generator.generate(prompt, {}, [](std::string_view) {}); },
                     "the prompt has 4 tokens and the context 4: shorten the prompt, or use a model or --context with "
                     "room for it and an answer");
}

TEST(EncodePrompt, PutsTheBosThereExactlyOnce) {
  const Tokenizer tokenizer = testing::tiny_tokenizer();
  const std::vector<int32_t> expected = tokenizer.encode("the day");
  ASSERT_EQ(expected.front(), *tokenizer.bos_token_id());
  EXPECT_EQ(encode_prompt(tokenizer, "the day"), expected);
  EXPECT_EQ(encode_prompt(tokenizer, "<｜begin▁of▁sentence｜>the day"), expected);
  EXPECT_EQ(encode_prompt(tokenizer, ""), std::vector<int32_t>{*tokenizer.bos_token_id()});
}

TEST(EncodePrompt, AnEmptyPromptNeedsSomethingToStartFrom) {
  const std::string_view texts[] = {"aaa"};
  const Tokenizer with_eos = train_bpe(texts, {.vocab_size = 257,
                                               .special_tokens = {"<eos>"},
                                               .bos_token = {},
                                               .eos_token = "<eos>",
                                               .pad_token = {},
                                               .add_bos_token = false});
  EXPECT_EQ(encode_prompt(with_eos, ""), std::vector<int32_t>{0});
  const Tokenizer bare = train_bpe(texts, {.vocab_size = 256,
                                           .special_tokens = {},
                                           .bos_token = {},
                                           .eos_token = {},
                                           .pad_token = {},
                                           .add_bos_token = false});
  expect_usage_error([&] { encode_prompt(bare, ""); },
                     "the prompt is empty, and the tokenizer names neither a bos_token nor an eos_token to start from");
}

}  // namespace
}  // namespace deeptitan
