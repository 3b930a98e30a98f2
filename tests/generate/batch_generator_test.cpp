#include "generate/batch_generator.h"

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
