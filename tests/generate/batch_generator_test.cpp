#include "generate/batch_generator.h"

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "generate/model_fixture.h"
#include "generate/text_generator.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

class BatchGeneratorTest : public ::testing::Test {
 protected:
  BatchGeneratorTest() { config_.max_position_embeddings = 300; }

  std::unique_ptr<ModelRunner> runner(int64_t sequences, int64_t pages = 0) const {
    auto made = std::make_unique<ModelRunner>(
        config_, RunnerOptions{.sequences = sequences, .prefill_chunk = 128, .page_size = 16, .pages = pages});
    made->allocate();
    made->initialize(3);
    return made;
  }
  std::vector<int32_t> prompt(int64_t length, uint64_t seed) const {
    std::vector<int32_t> ids = testing::random_tokens(config_, length, seed);
    for (int32_t& id : ids) id = 5 + id % 290;
    return ids;
  }
  // What TextGenerator gives for each, by itself.
  std::vector<Generation> one_by_one(const std::vector<GenerationRequest>& requests) const {
    std::vector<Generation> results;
    const auto engine = testing::drawn_engine(config_, {.prefill_chunk = 128, .page_size = 16});
    TextGenerator generator(*engine, tokenizer_, {1});
    for (const GenerationRequest& request : requests) {
      engine->truncate(0);
      results.push_back(generator.generate(request.prompt, request.options, [](std::string_view) {}));
    }
    return results;
  }
  static void expect_same(const std::vector<Generation>& found, const std::vector<Generation>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].tokens, expected[i].tokens) << "request " << i;
      EXPECT_EQ(found[i].logprobs, expected[i].logprobs) << "request " << i;
      EXPECT_EQ(found[i].text, expected[i].text) << "request " << i;
      EXPECT_EQ(found[i].reason, expected[i].reason) << "request " << i;
      EXPECT_EQ(found[i].prompt_tokens, expected[i].prompt_tokens) << "request " << i;
    }
  }

  // Prompts short and long, of their own sampling and length; some alike.
  std::vector<GenerationRequest> requests() const {
    std::vector<GenerationRequest> all;
    for (uint64_t i = 0; i < 11; ++i) {
      const int64_t length = i % 4 == 3 ? 150 + static_cast<int64_t>(i) : 3 + static_cast<int64_t>(i);
      all.push_back({prompt(length, i),
                     {.max_new_tokens = 5 + static_cast<int64_t>(i) * 3,
                      .sampling = {.temperature = i % 3 == 0 ? 0.0 : 0.9, .top_p = 0.95, .seed = i}}});
    }
    all.push_back({prompt(290, 50), {.max_new_tokens = 100, .sampling = {.seed = 4}}});  // fills its context
    for (uint64_t seed = 0; seed < 4; ++seed) {
      all.push_back({prompt(70, 60), {.max_new_tokens = 12, .sampling = {.seed = seed}}});
    }
    return all;
  }

  ModelConfig config_ = testing::with_tokenizer(testing::tiny_v3());
  const Tokenizer tokenizer_ = testing::tiny_tokenizer();
};

TEST_F(BatchGeneratorTest, EachTextIsTheOneThatItIsAlone) {
  const std::vector<GenerationRequest> all = requests();
  const std::vector<Generation> expected = one_by_one(all);
  EXPECT_EQ(expected[11].reason, StopReason::kContextFull);
  const int threads = omp_get_max_threads();
  for (const int64_t sequences : {1, 3, 16}) {
    omp_set_num_threads(sequences == 3 ? 3 : threads);
    const auto many = runner(sequences);
    std::vector<std::string> streamed(all.size());
    std::vector<int> done(all.size());
    const std::vector<Generation> found = BatchGenerator(*many, tokenizer_, {1})
                                              .generate(
                                                  all,
                                                  [&](size_t i, const Generation& g) {
                                                    ++done[i];
                                                    EXPECT_EQ(streamed[i], g.text);
                                                  },
                                                  [&](size_t i, std::string_view text) { streamed[i] += text; });
    expect_same(found, expected);
    EXPECT_EQ(done, std::vector<int>(all.size(), 1));
    EXPECT_EQ(many->pages().available(), many->pages().pages()) << sequences << " at once";
  }
  omp_set_num_threads(threads);
}

TEST_F(BatchGeneratorTest, APromptOfSeveralRequestsIsRunOnce) {
  const std::vector<GenerationRequest> all = requests();
  const std::vector<Generation> found = BatchGenerator(*runner(16), tokenizer_, {1}).generate(all);
  EXPECT_EQ(found[12].cached_tokens, 0);
  for (const size_t i : {13, 14, 15}) EXPECT_EQ(found[i].cached_tokens, 70);
}

// Room for one sequence of the context: requests wait, and a prompt that cannot be kept is run again.
TEST_F(BatchGeneratorTest, ASmallCacheMakesRequestsWait) {
  const std::vector<GenerationRequest> all = requests();
  const auto small = runner(16, 19);
  expect_same(BatchGenerator(*small, tokenizer_, {1}).generate(all), one_by_one(all));
  EXPECT_EQ(small->pages().available(), 19);
}

// As many pages as the texts need, and no more: who writes last into a shared page keeps it.
TEST_F(BatchGeneratorTest, SamplesOfOnePromptFitIntoThePagesOfTheirTexts) {
  std::vector<GenerationRequest> all;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    all.push_back({prompt(5, 60), {.max_new_tokens = 6, .sampling = {.temperature = 0.9, .seed = seed}}});
  }
  const auto exact = runner(20, 20);
  expect_same(BatchGenerator(*exact, tokenizer_, {1}).generate(all), one_by_one(all));
}

TEST_F(BatchGeneratorTest, AnInterruptedRequestEndsAndTheOthersGoOn) {
  std::vector<GenerationRequest> all = requests();
  all[1].options.interrupted = [] { return true; };
  all[12].options.interrupted = [] { return true; };  // its prompt is others' too
  const std::vector<Generation> found = BatchGenerator(*runner(4), tokenizer_, {1}).generate(all);
  std::vector<Generation> expected = one_by_one(all);
  EXPECT_EQ(found[1].reason, StopReason::kInterrupted);
  EXPECT_TRUE(found[1].tokens.empty());
  expect_same(found, expected);
}

// Requests that come at random times, of which some are cancelled at random times: before they run, in the middle of
// their prompt, while they decode. Each has the tokens and log-probabilities that it has alone, as far as it came.
TEST_F(BatchGeneratorTest, RequestsComeAndGoWhileItRuns) {
  std::vector<GenerationRequest> all = requests();
  for (const GenerationRequest& again : requests()) all.push_back(again);  // prompts that are known or run already
  for (GenerationRequest& request : all) request.options.logprobs = true;
  const std::vector<Generation> expected = one_by_one(all);
  std::mt19937 random(7);
  for (const int64_t pages : {0, 19, 40}) {
    const auto many = runner(5, pages);
    BatchGenerator generator(*many, tokenizer_, {1});
    std::vector<std::optional<Generation>> found(all.size());
    std::vector<std::string> streamed(all.size());
    std::vector<bool> cancelled(all.size());
    size_t admitted = 0;
    bool left = true;
    for (int64_t batches = 0; left || admitted < all.size(); ++batches) {
      ASSERT_LT(batches, 2000);
      while (admitted < all.size() && (random() % 3 == 0 || (!left && batches > 0))) {
        const size_t i = admitted++;
        const int64_t number = generator.admit(all[i], [&, i](std::string_view text) { streamed[i] += text; });
        ASSERT_EQ(number, static_cast<int64_t>(i));
        left = true;
      }
      if (admitted > 0 && random() % 4 == 0) {
        const size_t i = random() % admitted;
        const bool was_there = !found[i] && !cancelled[i];
        EXPECT_EQ(generator.cancel(static_cast<int64_t>(i)), was_there) << "request " << i;
        if (was_there) cancelled[i] = true;
      }
      left = generator.step();
      EXPECT_EQ(left, generator.in_progress() > 0);
      for (BatchGenerator::Finished& ended : generator.take_finished()) {
        ASSERT_FALSE(found.at(ended.request)) << "request " << ended.request << " ended twice";
        found[ended.request] = std::move(ended.generation);
      }
    }
    EXPECT_FALSE(generator.cancel(static_cast<int64_t>(all.size())));
    size_t in_their_middle = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      ASSERT_TRUE(found[i]) << "request " << i;
      EXPECT_EQ(streamed[i], found[i]->text);
      EXPECT_EQ(found[i]->prompt_tokens, std::ssize(all[i].prompt));
      const auto tokens = std::ssize(found[i]->tokens);
      if (cancelled[i]) {
        EXPECT_EQ(found[i]->reason, StopReason::kInterrupted);
        if (tokens > 0) ++in_their_middle;
      } else {
        EXPECT_EQ(found[i]->reason, expected[i].reason);
        EXPECT_EQ(tokens, std::ssize(expected[i].tokens));
      }
      ASSERT_LE(tokens, std::ssize(expected[i].tokens));
      EXPECT_TRUE(std::equal(found[i]->tokens.begin(), found[i]->tokens.end(), expected[i].tokens.begin())) << i;
      EXPECT_TRUE(std::equal(found[i]->logprobs.begin(), found[i]->logprobs.end(), expected[i].logprobs.begin())) << i;
      EXPECT_EQ(std::ssize(found[i]->logprobs), tokens);
    }
    EXPECT_GT(in_their_middle, 0);
    EXPECT_EQ(many->pages().available(), many->pages().pages()) << pages << " pages";
  }
}

// Who waited for a prompt that is cancelled before it has run takes its place, and the others wait for that.
TEST_F(BatchGeneratorTest, AnotherRunsAPromptThatIsCancelled) {
  const auto many = runner(2);
  BatchGenerator generator(*many, tokenizer_, {1});
  std::vector<GenerationRequest> all;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    all.push_back({prompt(200, 60), {.max_new_tokens = 4, .sampling = {.seed = seed}, .logprobs = true}});
  }
  all.push_back({prompt(9, 61), {.max_new_tokens = 2, .logprobs = true}});
  for (const GenerationRequest& request : all) generator.admit(request);
  EXPECT_TRUE(generator.step());  // the first 128 of 200 tokens
  EXPECT_TRUE(generator.cancel(0));
  EXPECT_FALSE(generator.cancel(0));
  EXPECT_EQ(generator.in_progress(), 4);
  std::vector<Generation> found(all.size());
  while (generator.step()) {
  }
  for (BatchGenerator::Finished& ended : generator.take_finished()) found[ended.request] = std::move(ended.generation);
  EXPECT_EQ(found[0].reason, StopReason::kInterrupted);
  EXPECT_TRUE(found[0].tokens.empty());
  EXPECT_EQ(found[1].cached_tokens, 0);
  for (const size_t i : {2, 3}) EXPECT_EQ(found[i].cached_tokens, 200);
  std::vector<Generation> expected = one_by_one(all);
  expected[0] = found[0];
  expect_same(found, expected);
  EXPECT_EQ(many->pages().available(), many->pages().pages());
}

// What a callback throws ends all, and the generator is as new.
TEST_F(BatchGeneratorTest, AfterAnErrorNewRequestsCanBeAdmitted) {
  const auto many = runner(4);
  BatchGenerator generator(*many, tokenizer_, {1});
  const std::vector<GenerationRequest> all = requests();
  generator.admit(all[0]);
  generator.admit(all[3], [](std::string_view) { fail("the listener has gone"); });
  const auto run = [&] {
    while (generator.step()) {
    }
  };
  expect_runtime_error(run, "the listener has gone");
  EXPECT_EQ(generator.in_progress(), 0);
  EXPECT_EQ(many->pages().available(), many->pages().pages());
  generator.take_finished();
  expect_same(generator.generate(all), one_by_one(all));
}

TEST_F(BatchGeneratorTest, RefusesWhatCannotRunAndGoesOn) {
  const auto many = runner(2);
  BatchGenerator generator(*many, tokenizer_, {1});
  const GenerationRequest good = {prompt(5, 1), {.max_new_tokens = 3}};
  EXPECT_EQ(generator.admit(good), 0);
  generator.step();
  expect_usage_error([&] { generator.admit({{}, {}}); }, "the prompt is empty");
  expect_usage_error([&] { generator.admit({{7, 306}, {}}); }, "token id 306 is outside the model's vocabulary of 306");
  expect_usage_error([&] { generator.admit({{7}, {.max_new_tokens = 0}}); }, "max-new-tokens = 0: expected at least 1");
  expect_runtime_error(
      [&] {
        generator.generate({&good, 1});
      },
      "a list of requests is run by itself, and 1 are in progress");
  while (generator.step()) {
  }
  const std::vector<BatchGenerator::Finished> finished = generator.take_finished();
  ASSERT_EQ(finished.size(), 1);
  expect_same({finished[0].generation}, one_by_one({good}));
  EXPECT_TRUE(generator.take_finished().empty());
  EXPECT_FALSE(generator.step());
}

TEST_F(BatchGeneratorTest, RefusesARequestByItsPlaceBeforeAnyIsRun) {
  const auto many = runner(2);
  BatchGenerator generator(*many, tokenizer_, {1});
  std::vector<GenerationRequest> all = {{prompt(3, 1), {}}, {prompt(300, 1), {}}};
  expect_usage_error(
      [&] { generator.generate(all); },
      "request 2 of 2: the prompt has 300 tokens and the context 300: shorten the prompt, or use a model "
      "or --context with room for it and an answer");
  all[1].prompt.clear();
  expect_usage_error([&] { generator.generate(all); }, "request 2 of 2: the prompt is empty");
  EXPECT_TRUE(generator.generate({}).empty());
}

}  // namespace
}  // namespace deeptitan
