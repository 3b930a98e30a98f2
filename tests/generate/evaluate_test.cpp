#include "generate/evaluate.h"

#include <cmath>
#include <string>

#include <gtest/gtest.h>

#include "generate/encode_prompt.h"
#include "generate/model_fixture.h"
#include "generate/text_generator.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

using testing::drawn_engine;

// Of what `work` runs on it.
template <typename Runner, typename Work>
double flops_of(Runner& runner, const Work& work) {
  OpProfile profile;
  runner.set_profile(&profile);
  work();
  runner.set_profile(nullptr);
  double sum = 0;
  for (const auto& [name, entry] : profile.entries) sum += entry.flops;
  return sum;
}

double flops_of_pairs(ModelRunner& runner, std::span<const TokenPair> pairs) {
  return flops_of(runner, [&] { score_pairs(runner, pairs); });
}

class EvaluateTest : public ::testing::Test {
 protected:
  ModelConfig config_ = testing::with_tokenizer(testing::tiny_v3());
  const Tokenizer tokenizer_ = testing::tiny_tokenizer();

  // log p(ids[at] | ids[begin .. at)) out of a forward of its own.
  double logprob(InferenceEngine& engine, std::span<const int32_t> ids, size_t begin, size_t at) {
    engine.truncate(0);
    const std::span<const float> logits = engine.prefill(ids.subspan(begin, at - begin));
    double sum = 0;
    for (const float x : logits) sum += std::exp(static_cast<double>(x));
    return logits[ids[at]] - std::log(sum);
  }
};

TEST_F(EvaluateTest, ScoresEachTokenGivenThoseBefore) {
  const auto engine = drawn_engine(config_);
  const std::string text = "And God saw the light";
  const std::vector<int32_t> ids = encode_prompt(tokenizer_, text);
  const TextScore score = score_text(*engine, tokenizer_, ids);
  EXPECT_EQ(score.token_ids, ids);
  ASSERT_EQ(score.logprobs.size(), ids.size());
  double nats = 0;
  for (size_t i = 1; i < ids.size(); ++i) {
    EXPECT_NEAR(score.logprobs[i], logprob(*engine, ids, 0, i), 1e-4);
    nats -= score.logprobs[i];
  }
  EXPECT_DOUBLE_EQ(score.loss, nats / static_cast<double>(ids.size() - 1));
  EXPECT_DOUBLE_EQ(score.perplexity, std::exp(score.loss));
  EXPECT_DOUBLE_EQ(score.bits_per_byte, nats / std::log(2.0) / static_cast<double>(text.size()));
}

TEST_F(EvaluateTest, ALongTextGoesThroughWindowsThatAdvanceByHalf) {
  const auto engine = drawn_engine(config_, {.context_length = 8, .prefill_chunk = 3});
  const std::vector<int32_t> ids = testing::random_tokens(config_, 30, 1);
  const TextScore score = score_text(*engine, tokenizer_, ids);
  for (size_t i = 1; i < ids.size(); ++i) {
    const size_t window = i <= 8 ? 0 : (i - 8 + 3) / 4;  // the first that reaches token i
    EXPECT_NEAR(score.logprobs[i], logprob(*engine, ids, 4 * window, i), 1e-4) << "token " << i;
  }
}

TEST_F(EvaluateTest, WindowsOfOneTokenWorkToo) {
  const auto engine = drawn_engine(config_, {.context_length = 1});
  const std::vector<int32_t> ids = testing::random_tokens(config_, 5, 1);
  const TextScore score = score_text(*engine, tokenizer_, ids);
  for (size_t i = 1; i < ids.size(); ++i) EXPECT_NEAR(score.logprobs[i], logprob(*engine, ids, i - 1, i), 1e-4);
}

TEST_F(EvaluateTest, ContinuationsAreSummedAndComparedWithGreedyDecoding) {
  const auto engine = drawn_engine(config_);
  const std::vector<int32_t> context = encode_prompt(tokenizer_, "And God saw");
  TextGenerator generator(*engine, tokenizer_, {});
  const std::vector<int32_t> greedy =
      generator.generate(context, {.max_new_tokens = 4, .sampling = {.temperature = 0}}, [](std::string_view) {})
          .tokens;
  std::vector<int32_t> whole = context;
  whole.insert(whole.end(), greedy.begin(), greedy.end());
  double expected = 0;
  for (size_t i = context.size(); i < whole.size(); ++i) expected += logprob(*engine, whole, 0, i);
  const ContinuationScore score = score_continuation(*engine, context, greedy);
  EXPECT_NEAR(score.logprob, expected, 1e-4);
  EXPECT_TRUE(score.is_greedy);
  EXPECT_EQ(score.tokens, 4);
  std::vector<int32_t> other = greedy;
  other.back() = other.back() == 40 ? 41 : 40;
  EXPECT_FALSE(score_continuation(*engine, context, other).is_greedy);
}

TEST_F(EvaluateTest, AContextIsRunOnceForAllItsContinuations) {
  const auto engine = drawn_engine(config_);
  const std::vector<int32_t> first = testing::random_tokens(config_, 20, 1),
                             second = testing::random_tokens(config_, 9, 2);
  std::vector<TokenPair> pairs;
  for (uint64_t i = 0; i < 6; ++i)
    pairs.push_back({i % 2 == 0 ? first : second, testing::random_tokens(config_, 3, 9 + i)});
  pairs.push_back(pairs[0]);
  const std::vector<ContinuationScore> scores = score_pairs(engine->runner(), pairs);
  const auto alone = drawn_engine(config_);
  for (size_t i = 0; i < pairs.size(); ++i) {
    alone->truncate(0);
    const ContinuationScore expected = score_continuation(*alone, pairs[i].context, pairs[i].continuation);
    EXPECT_NEAR(scores[i].logprob, expected.logprob, 1e-4) << i;
    EXPECT_EQ(scores[i].is_greedy, expected.is_greedy) << i;
  }
  // Of the second pair the context's last token is run, and the continuation but its last.
  const auto flops_of_pair = [&](const TokenPair& pair) {
    return flops_of(*alone, [&] { score_continuation(*alone, pair.context, pair.continuation); });
  };
  alone->truncate(0);
  const double whole = flops_of_pair(pairs[0]);
  EXPECT_LT(flops_of_pair(pairs[2]), whole / 3);
}

// Contexts alone and shared, that begin alike in two ways or in none, on runners of much room and little.
TEST_F(EvaluateTest, ManyPairsInBatchesScoreAsEachAlone) {
  config_.max_position_embeddings = 160;
  const auto join = [](std::vector<int32_t> a, const std::vector<int32_t>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  std::vector<TokenPair> pairs;
  for (uint64_t i = 0; i < 12; ++i) {
    const std::vector<int32_t> begin =
        i % 4 == 3 ? std::vector<int32_t>{} : testing::random_tokens(config_, 70, 100 + i % 2);
    const std::vector<int32_t> context =
        join(begin, testing::random_tokens(config_, 1 + 5 * static_cast<int64_t>(i), i));
    for (uint64_t j = 0; j < 1 + i % 3; ++j) {
      pairs.push_back({context, testing::random_tokens(config_, 1 + static_cast<int64_t>(j) * 4, 50 + i * 3 + j)});
    }
  }
  pairs.push_back(
      {testing::random_tokens(config_, 200, 9), testing::random_tokens(config_, 30, 8)});  // loses its front
  // Contexts that differ in their last token alone; continuations of one token; more of them than a batch has
  // sequences; and more contexts than a wave.
  std::vector<int32_t> context = testing::random_tokens(config_, 90, 300);
  for (int32_t last = 0; last < 3; ++last) {
    context.back() = 20 + last;
    pairs.push_back({context, testing::random_tokens(config_, 1 + last, 301)});
    pairs.push_back({context, testing::random_tokens(config_, 2, 302)});
  }
  for (uint64_t i = 0; i < 70; ++i) {
    pairs.push_back({testing::random_tokens(config_, 66, 303), testing::random_tokens(config_, 1, 310 + i)});
    pairs.push_back({testing::random_tokens(config_, 67, 304), testing::random_tokens(config_, 2 + i % 3, 310 + i)});
  }
  for (uint64_t i = 0; i < 60; ++i) {
    for (uint64_t j = 0; j < 2; ++j) {
      pairs.push_back({testing::random_tokens(config_, 100, 500 + i), testing::random_tokens(config_, 3, 600 + j)});
    }
  }
  const auto alone = drawn_engine(config_);
  for (const bool roomy : {true, false}) {
    RunnerOptions options{.page_size = 16};
    options = roomy ? scoring_options(config_, options) : options;
    if (!roomy) options.prefill_chunk = 100;
    ModelRunner runner(config_, options);
    runner.allocate();
    runner.initialize(3);
    const std::vector<ContinuationScore> scores = score_pairs(runner, pairs);
    EXPECT_EQ(runner.pages().available(), runner.pages().pages());
    for (size_t i = 0; i < pairs.size(); ++i) {
      alone->truncate(0);
      const ContinuationScore expected = score_continuation(*alone, pairs[i].context, pairs[i].continuation);
      EXPECT_NEAR(scores[i].logprob, expected.logprob, 1e-4 * std::abs(expected.logprob)) << roomy << " " << i;
      EXPECT_EQ(scores[i].is_greedy, expected.is_greedy) << i;
      EXPECT_EQ(scores[i].tokens, expected.tokens) << i;
    }
  }
}

TEST_F(EvaluateTest, WhatContextsBeginWithIsRunOnce) {
  config_.max_position_embeddings = 160;
  const std::vector<int32_t> begin = testing::random_tokens(config_, 140, 7);
  std::vector<TokenPair> pairs;
  for (uint64_t i = 0; i < 8; ++i) {
    std::vector<int32_t> context = begin;
    context.push_back(static_cast<int32_t>(10 + i));
    pairs.push_back({context, testing::random_tokens(config_, 2, i)});
  }
  ModelRunner runner(config_, scoring_options(config_, {}));
  runner.allocate();
  runner.initialize(3);
  EXPECT_LT(flops_of_pairs(runner, pairs), 2 * flops_of_pairs(runner, std::span(pairs).first(1)));
}

// Continuations of one token cost their share of the head alone; of longer ones the context's last token is run for
// all.
TEST_F(EvaluateTest, TheLastTokenOfAContextIsRunOnce) {
  config_.max_position_embeddings = 160;
  std::vector<TokenPair> one, letters, longer;
  for (uint64_t i = 0; i < 6; ++i) {
    const std::vector<int32_t> context = testing::random_tokens(config_, 90, i);
    one.push_back({context, testing::random_tokens(config_, 1, 7)});
    for (uint64_t j = 0; j < 8; ++j) {
      letters.push_back({context, testing::random_tokens(config_, 1, 20 + j)});
      longer.push_back({context, testing::random_tokens(config_, 2, 20 + j)});
    }
  }
  ModelRunner runner(config_, scoring_options(config_, {}));
  runner.allocate();
  runner.initialize(3);
  const double alone = flops_of_pairs(runner, one);
  EXPECT_LT(flops_of_pairs(runner, letters), 1.1 * alone);
  EXPECT_LT(flops_of_pairs(runner, longer), 1.3 * alone);
}

TEST_F(EvaluateTest, ALongContextLosesItsFront) {
  const auto engine = drawn_engine(config_, {.context_length = 6});
  const std::vector<int32_t> ids = testing::random_tokens(config_, 12, 2);
  const ContinuationScore score = score_continuation(*engine, std::span(ids).first(10), std::span(ids).subspan(10));
  EXPECT_NEAR(score.logprob, logprob(*engine, ids, 5, 10) + logprob(*engine, ids, 5, 11), 1e-4);
  expect_usage_error([&] { score_continuation(*engine, std::span(ids).first(2), std::span(ids).first(7)); },
                     "a continuation of 7 tokens does not fit in the context of 6");
}

TEST_F(EvaluateTest, ATokenOutsideTheVocabularyIsRefusedWhereverItStands) {
  const auto engine = drawn_engine(config_);
  for (const int32_t bad : {306, -1, -2}) {
    for (const size_t place : {0, 2, 4}) {
      std::vector<int32_t> ids = {5, 6, 7, 8, 9};
      ids[place] = bad;
      if (bad == -1 && place == 4) continue;  // the last is only a target, and -1 asks for nothing
      expect_runtime_error([&] { score_text(*engine, tokenizer_, ids); },
                           "token id " + std::to_string(bad) + " is outside the model's vocabulary of 306");
    }
  }
}

TEST_F(EvaluateTest, WhatOverflowsIsAnErrorThatNamesPlaceAndOp) {
  testing::DrawnModel drawn(config_);
  const Tensor norm = drawn.model.parameters().find("model.norm.weight")->value;
  std::fill_n(norm.host<float>(), norm.numel(), 3e38f);
  InferenceEngine engine(config_, {});
  engine.allocate();
  engine.load(drawn.model);
  const std::vector<int32_t> ids = {5, 6, 7, 8, 9};
  const std::string of_text = message_of([&] { score_text(engine, tokenizer_, ids); });
  EXPECT_TRUE(of_text.starts_with("the log-probability of token 6 at place 1 is not finite (")) << of_text;
  EXPECT_NE(of_text.find(" gave a value that is not finite in its output "), std::string::npos) << of_text;
  const std::string of_pair =
      message_of([&] { score_continuation(engine, std::span(ids).first(3), std::span(ids).subspan(3)); });
  EXPECT_TRUE(of_pair.starts_with("the log-probability of token 8 at place 3 is not finite (")) << of_pair;
}

TEST_F(EvaluateTest, ATextWithNothingToPredictIsRefused) {
  const auto engine = drawn_engine(config_);
  expect_usage_error([&] { score_text(*engine, tokenizer_, {3}); },
                     "a text of 1 tokens has nothing to predict; expected at least 2");
}

}  // namespace
}  // namespace deeptitan
