#include "generate/model_runner.h"

#include <algorithm>
#include <numeric>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "generate/model_fixture.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

using testing::random_tokens;

ModelConfig long_context(ModelConfig config) {
  config.max_position_embeddings = 400;
  return config;
}

std::unique_ptr<ModelRunner> drawn_runner(const ModelConfig& config, const RunnerOptions& options) {
  auto runner = std::make_unique<ModelRunner>(config, options);
  runner->allocate();
  runner->initialize(3);
  return runner;
}

Sequence of(std::vector<int32_t> tokens) {
  return {.tokens = std::move(tokens), .cached = 0, .pages = {}};
}

struct RunnerCase {
  const char* name;
  ModelConfig config;
  DType compute;
};
void PrintTo(const RunnerCase& model, std::ostream* out) {
  *out << model.name;
}
class RunnerOfEveryModel : public ::testing::TestWithParam<RunnerCase> {
 protected:
  std::unique_ptr<ModelRunner> runner(int64_t sequences, int64_t page_size = 16, int64_t chunk = 210) const {
    return drawn_runner(
        GetParam().config,
        {.compute = GetParam().compute, .sequences = sequences, .prefill_chunk = chunk, .page_size = page_size});
  }
  std::vector<int32_t> tokens(int64_t count, uint64_t seed) const {
    return random_tokens(GetParam().config, count, seed);
  }
  size_t vocab() const { return static_cast<size_t>(GetParam().config.vocab_size); }

  // The logits behind each part of a sequence that is run alone in these parts.
  std::vector<std::vector<float>> alone(const std::vector<int32_t>& all, const std::vector<int64_t>& parts) const {
    const auto one = runner(1, 400);
    Sequence sequence = of(all);
    std::vector<std::vector<float>> logits;
    for (const int64_t count : parts) {
      const ModelRunner::Rows rows{&sequence, count};
      const auto found = one->run({&rows, 1});
      logits.emplace_back(found.begin(), found.end());
    }
    return logits;
  }
};

// Fresh and cached sequences, expanding and absorbing, their pages given out in turn, some given back in between.
TEST_P(RunnerOfEveryModel, EachSequenceHasTheBitsThatItHasAlone) {
  const auto many = runner(5);
  std::vector<Sequence> sequences;
  const std::vector<std::vector<int64_t>> parts = {{70, 1, 1}, {5, 130, 1}, {100, 64, 3}, {1, 1, 90}};
  std::vector<std::vector<std::vector<float>>> expected;
  for (size_t s = 0; s < parts.size(); ++s) {
    int64_t length = 0;
    for (const int64_t count : parts[s]) length += count;
    sequences.push_back(of(tokens(length, 10 + s)));
    expected.push_back(alone(sequences.back().tokens, parts[s]));
  }
  Sequence passing = of(tokens(33, 99));
  for (size_t step = 0; step < 3; ++step) {
    // Which comes first in a batch changes too; `passing` takes pages before the others and gives them back.
    std::vector<ModelRunner::Rows> rows;
    if (step == 0) rows.push_back({&passing, 33});
    std::vector<size_t> order = {2, 0, 3, 1};
    std::rotate(order.begin(), order.begin() + static_cast<int64_t>(step), order.end());
    for (const size_t s : order) rows.push_back({&sequences[s], parts[s][step]});
    const std::span<const float> logits = many->run(rows);
    const size_t first = step == 0 ? 1 : 0;
    for (size_t i = 0; i < order.size(); ++i) {
      const auto found = logits.subspan((first + i) * vocab(), vocab());
      EXPECT_TRUE(std::equal(found.begin(), found.end(), expected[order[i]][step].begin()))
          << "sequence " << order[i] << " step " << step;
    }
    if (step == 0) many->release(passing);
  }
  for (const Sequence& sequence : sequences) {
    std::vector<int32_t> identity(sequence.pages.size());
    std::iota(identity.begin(), identity.end(), 0);
    EXPECT_NE(sequence.pages, identity);
  }
}

TEST_P(RunnerOfEveryModel, APromptInChunksHasTheBitsOfThePromptWhole) {
  const std::vector<int32_t> all = tokens(200, 5);
  const std::vector<float> whole = alone(all, {200}).back();
  EXPECT_EQ(alone(all, {64, 136}).back(), whole);
  EXPECT_EQ(alone(all, {70, 65, 65}).back(), whole);
}

// What a chunk costs beside its part of the prompt whole is the keys and values that it expands again: none of it pays
// for attention over latents, however much lies in the cache.
TEST_P(RunnerOfEveryModel, APromptInChunksCostsWhatThePromptCosts) {
  const auto operations = [&](const std::vector<int64_t>& parts) {
    const auto one = runner(1, 400);
    OpProfile profile;
    one->set_profile(&profile);
    Sequence sequence = of(tokens(200, 5));
    for (const int64_t count : parts) {
      const ModelRunner::Rows rows{&sequence, count};
      one->run({&rows, 1});
    }
    return profile;
  };
  const OpProfile whole = operations({200});
  const OpProfile parts = operations({72, 64, 64});
  EXPECT_FALSE(parts.entries.contains("absorbed_attention"));
  EXPECT_GT(operations({150, 50}).entries.at("absorbed_attention").flops, 0.0);
  // 72 and 136 entries are expanded again.
  const ModelConfig& config = GetParam().config;
  const double again = 2.0 * 208 *
                       static_cast<double>(config.num_hidden_layers * config.num_attention_heads * config.kv_lora_rank *
                                           (config.qk_nope_head_dim + config.v_head_dim));
  EXPECT_DOUBLE_EQ(parts.entries.at("expanded_attention").flops, whole.entries.at("expanded_attention").flops + again);
  for (const auto& [op, entry] : whole.entries) {
    // Beside attention, each row costs the same, but for the logits of a row a batch.
    if (op != "linear" && op != "grouped_linear") continue;
    EXPECT_LT(parts.entries.at(op).flops, 1.02 * entry.flops) << op;
  }
}

TEST_P(RunnerOfEveryModel, AForkGoesOnAsIfItHadBeenRunItself) {
  const auto many = runner(3);
  const std::vector<int32_t> shared = tokens(37, 1);  // two full pages and a part of a third
  Sequence first = of(shared);
  ModelRunner::Rows rows{&first, 37};
  many->run({&rows, 1});
  Sequence second = many->fork(first);
  EXPECT_EQ(many->pages().available(), many->pages().pages() - 3);
  first.tokens.push_back(4);
  second.tokens.push_back(9);
  std::vector<int32_t> with_four = first.tokens;
  std::vector<int32_t> with_nine = second.tokens;
  const std::vector<ModelRunner::Rows> both = {{&first, 1}, {&second, 1}};
  const std::vector<float> logits = [&] {
    const auto found = many->run(both);
    return std::vector<float>(found.begin(), found.end());
  }();
  EXPECT_EQ(many->pages().available(), many->pages().pages() - 4);  // the part was copied
  EXPECT_EQ(first.pages[1], second.pages[1]);
  EXPECT_NE(first.pages[2], second.pages[2]);
  const std::vector<float> four = alone(with_four, {37, 1}).back();
  const std::vector<float> nine = alone(with_nine, {37, 1}).back();
  EXPECT_TRUE(std::equal(four.begin(), four.end(), logits.begin()));
  EXPECT_TRUE(std::equal(nine.begin(), nine.end(), logits.begin() + static_cast<int64_t>(vocab())));
  // Cut back into the shared part and gone on from there: the other's entries are left alone.
  many->truncate(second, 20);
  second.tokens.push_back(7);
  first.tokens.push_back(8);
  std::vector<int32_t> longer = first.tokens;
  const std::vector<ModelRunner::Rows> again = {{&second, 1}, {&first, 1}};
  const auto found = many->run(again);
  const std::vector<float> eight = alone(longer, {37, 1, 1}).back();
  EXPECT_TRUE(std::equal(eight.begin(), eight.end(), found.begin() + static_cast<int64_t>(vocab())));
  many->release(first);
  many->release(second);
  EXPECT_EQ(many->pages().available(), many->pages().pages());
}

TEST_P(RunnerOfEveryModel, ScoresManySequencesAtOnce) {
  const auto many = runner(2);
  Sequence first = of(tokens(70, 1));
  Sequence second = of(tokens(9, 2));
  std::vector<int32_t> targets(79, 3);
  targets[78] = -1;
  std::vector<float> logprobs(79), expected(79);
  std::vector<int32_t> likeliest(79);
  const std::vector<ModelRunner::Rows> rows = {{&first, 70}, {&second, 9}};
  many->score(rows, targets, logprobs, likeliest);
  EXPECT_EQ(logprobs[78], 0.0f);
  const auto one = runner(1);
  for (auto& [sequence, begin] : {std::pair{&first, 0}, std::pair{&second, 70}}) {
    Sequence single = of(sequence->tokens);
    const ModelRunner::Rows row{&single, single.length()};
    const auto count = static_cast<size_t>(single.length());
    one->score({&row, 1}, std::span(targets).subspan(begin, count), std::span(expected).subspan(begin, count),
               std::span(likeliest).subspan(begin, count));
    one->release(single);
  }
  EXPECT_EQ(logprobs, expected);
}

INSTANTIATE_TEST_SUITE_P(ModelRunner, RunnerOfEveryModel,
                         ::testing::Values(RunnerCase{"v3_f32", long_context(testing::tiny_v3()), DType::kF32},
                                           RunnerCase{"v2_f32", long_context(testing::tiny_v2()), DType::kF32},
                                           RunnerCase{"v3_bf16", long_context(testing::tiny_v3()), DType::kBF16}),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST(ModelRunner, RefusesWhatDoesNotFitAndChangesNothing) {
  const ModelConfig config = testing::tiny_v3();
  expect_usage_error([&] { ModelRunner(config, {.sequences = 0}); },
                     "sequences = 0: a batch holds at least one sequence");
  expect_usage_error([&] { ModelRunner(config, {.sequences = 2, .page_size = 16, .pages = 3}); },
                     "a cache of 3 pages of 16 tokens cannot hold one sequence of the context's 64 tokens; it needs 4");
  const auto runner = drawn_runner(config, {.sequences = 2, .prefill_chunk = 40, .page_size = 16, .pages = 4});
  Sequence first = of(random_tokens(config, 40, 1));
  Sequence second = of(random_tokens(config, 40, 2));
  const auto run = [&](std::vector<ModelRunner::Rows> rows) { runner->run(rows); };
  expect_runtime_error([&] { run({}); }, "a batch of 0 sequences; this runner was planned for 1 to 2");
  expect_runtime_error([&] { run({{&first, 41}}); }, "41 tokens are to be run of a sequence with 40 pending");
  expect_runtime_error(
      [&] {
        run({{&first, 40}, {&second, 40}});
      },
      "a batch of 80 tokens; this runner was planned for 41");
  run({{&first, 40}});
  expect_runtime_error(
      [&] {
        run({{&second, 40}});
      },
      "3 cache pages are wanted and 1 of 4 are free; run fewer sequences at once");
  EXPECT_EQ(second.cached, 0);
  EXPECT_TRUE(second.pages.empty());
  first.tokens.push_back(70);
  expect_runtime_error([&] { run({{&first, 1}}); }, "token id 70 is outside the model's vocabulary of 70");
  EXPECT_EQ(first.cached, 40);
  expect_runtime_error([&] { runner->truncate(first, 42); }, "truncate to 42: the sequence holds 41 tokens");
}

TEST(ModelRunner, PromptsComeInChunksOfTheirDevice) {
  const ModelConfig config = long_context(testing::tiny_v3());
  const auto chunk = [&](const RunnerOptions& options, int64_t context) {
    ModelConfig longer = config;
    longer.max_position_embeddings = context;
    return complete_options(options, longer).prefill_chunk;
  };
  const Device gpu{DeviceKind::kCuda, 0};
  EXPECT_EQ(chunk({}, 100000), 1024);
  EXPECT_EQ(chunk({.device = gpu}, 100000), 8192);
  EXPECT_EQ(chunk({.device = gpu}, 700), 700);
  EXPECT_EQ(chunk({.device = gpu, .prefill_chunk = 300}, 100000), 300);
}

// Which rows take the form of few: those up to the last sequence that has few.
TEST(BatchTables, KnowWhereTheLastSequenceOfFewRowsEnds) {
  const auto few_end = [](const std::vector<int32_t>& counts) {
    BatchTables tables;
    for (const int32_t count : counts) {
      tables.query_offset.push_back(tables.query_offset.back() + count);
      tables.cached_length.push_back(0);
      tables.token_ids.resize(tables.query_offset.back());
    }
    return tables.capacity(1).few_end;
  };
  EXPECT_EQ(few_end({64, 500}), 0);
  EXPECT_EQ(few_end({1, 1, 300}), 2);
  EXPECT_EQ(few_end({300, 63, 64}), 363);
  EXPECT_EQ(few_end({1, 1}), 2);
}

// Dynamic NTK's rotations follow the longest length in use, which sequences of one batch do not share.
TEST(ModelRunner, DynamicPositionsRunOneSequenceABatch) {
  ModelConfig config = testing::tiny_v3();
  config.rope.kind = RopeKind::kDynamic;
  config.rope.factor = 2.0;
  EXPECT_EQ(ModelRunner(config, {.sequences = 8}).batch_sequences(), 1);
}

}  // namespace
}  // namespace deeptitan
