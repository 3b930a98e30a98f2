// A model that many ranks hold together, their experts and layers shared out: what one process gives, bit for bit.

#include "generate/runner_ranks.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/model_directory.h"
#include "comm/thread_ranks.h"
#include "generate/batch_generator.h"
#include "generate/evaluate.h"
#include "generate/model_fixture.h"
#include "model/deepseek/checkpoint.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

using testing::drawn_engine;
using testing::random_tokens;

// Runs `body` as the first rank of a mesh; the others follow it, each in a thread.
void as_first_rank(const ModelConfig& config, const Mesh& mesh, const std::function<void(RunnerRanks*)>& body,
                   const std::filesystem::path& directory = {}) {
  run_thread_ranks(mesh.world(), [&](Transport& transport) {
    RunnerRanks ranks(transport, mesh, kDefaultDeadline, mesh.world());
    if (!ranks.first()) return follow_first_rank(ranks, config, directory);
    body(&ranks);
    ranks.tell(RunnerRanks::Command::kEnd);
  });
}

const std::vector<Mesh>& meshes() {
  static const std::vector<Mesh> all = {{.ep = 2}, {.ep = 4}, {.pp = 2}, {.pp = 3}, {.pp = 2, .ep = 2}};
  return all;
}

// Of a prompt in two chunks and two more tokens.
std::vector<std::vector<float>> logits_of(const ModelConfig& config, DType compute, RunnerRanks* ranks,
                                          std::vector<RankMemory>* memory) {
  const auto engine = drawn_engine(config, {.compute = compute, .prefill_chunk = 8, .ranks = ranks});
  *memory = engine->runner().memory();
  std::vector<std::vector<float>> logits;
  const std::vector<int32_t> tokens = random_tokens(config, 15, 4);
  for (const std::span<const int32_t> part :
       {std::span(tokens).first(13), std::span(tokens).subspan(13, 1), std::span(tokens).subspan(14, 1)}) {
    const std::span<const float> found = engine->prefill(part);
    logits.emplace_back(found.begin(), found.end());
  }
  return logits;
}

TEST(RunnerRanks, LogitsHaveTheBitsOfOneProcess) {
  for (ModelConfig config : {testing::tiny_v2(), testing::tiny_v3()}) {
    config.moe_intermediate_size = 64;
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      std::vector<RankMemory> whole;
      const auto expected = logits_of(config, compute, nullptr, &whole);
      ASSERT_EQ(whole.size(), 1u);
      for (const Mesh& mesh : meshes()) {
        as_first_rank(config, mesh, [&](RunnerRanks* ranks) {
          std::vector<RankMemory> memory;
          EXPECT_EQ(logits_of(config, compute, ranks, &memory), expected) << mesh.describe();
          ASSERT_EQ(std::ssize(memory), mesh.world());
          for (const RankMemory& rank : memory) EXPECT_LT(rank.planned, whole.front().planned) << mesh.describe();
        });
      }
    }
  }
}

int64_t prepared_bytes(const ModelConfig& config, RunnerRanks* ranks) {
  const BatchExecutor executor(config, complete_options({.ranks = ranks}, config));
  for (const PlannedArena& arena : executor.plan().arenas) {
    if (arena.name == "prepared weights") return arena.bytes;
  }
  return 0;
}

// Of what larger experts add to the weights, a rank has that of its layers, and of their routed experts its own.
TEST(RunnerRanks, EachRankHoldsItsOwnExpertsAndLayers) {
  ModelConfig small = testing::tiny_v3();
  small.num_hidden_layers = 4;
  small.first_k_dense_replace = 0;
  ModelConfig large = small;
  large.moe_intermediate_size = 512;
  const int64_t whole = prepared_bytes(large, nullptr) - prepared_bytes(small, nullptr);
  for (const Mesh& mesh : {Mesh{.ep = 2}, Mesh{.ep = 4}, Mesh{.pp = 2}, Mesh{.pp = 4}, Mesh{.pp = 2, .ep = 2}}) {
    run_thread_ranks(mesh.world(), [&](Transport& transport) {
      RunnerRanks ranks(transport, mesh);
      const int64_t mine = prepared_bytes(large, &ranks) - prepared_bytes(small, &ranks);
      // Eight routed experts and a shared one a layer, which all ranks of a stage have.
      const double expected = 8.0 / 9.0 / mesh.world() + 1.0 / 9.0 / mesh.pp;
      EXPECT_NEAR(static_cast<double>(mine) / static_cast<double>(whole), expected, 0.01) << mesh.describe();
    });
  }
}

class GenerationOverRanks : public ::testing::Test {
 protected:
  GenerationOverRanks() { config_.max_position_embeddings = 300; }

  // Short and long prompts, greedy and sampled, some of them alike, so that they share pages and write into copies.
  std::vector<GenerationRequest> requests() const {
    std::vector<GenerationRequest> all;
    for (uint64_t i = 0; i < 9; ++i) {
      std::vector<int32_t> prompt = random_tokens(config_, i % 4 == 3 ? 150 : 3 + static_cast<int64_t>(i), i / 2);
      for (int32_t& id : prompt) id = 5 + id % 290;
      all.push_back({prompt,
                     {.max_new_tokens = 4 + static_cast<int64_t>(i) * 2,
                      .sampling = {.temperature = i % 3 == 0 ? 0.0 : 0.9, .top_p = 0.95, .seed = i},
                      .logprobs = true}});
      all.push_back(all.back());
      all.back().options.sampling.seed += 100;
    }
    return all;
  }
  std::vector<Generation> generate(RunnerRanks* ranks) const {
    ModelRunner runner(config_, {.sequences = 5, .prefill_chunk = 64, .page_size = 16, .ranks = ranks});
    runner.allocate();
    runner.initialize(3);
    BatchGenerator generator(runner, tokenizer_, {1});
    return generator.generate(requests());
  }

  ModelConfig config_ = testing::with_tokenizer(testing::tiny_v3());
  const Tokenizer tokenizer_ = testing::tiny_tokenizer();
};

TEST_F(GenerationOverRanks, ManyTextsAreThoseOfOneProcess) {
  const std::vector<Generation> expected = generate(nullptr);
  for (const Mesh& mesh : meshes()) {
    as_first_rank(config_, mesh, [&](RunnerRanks* ranks) {
      const std::vector<Generation> found = generate(ranks);
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i) {
        EXPECT_EQ(found[i].tokens, expected[i].tokens) << mesh.describe() << " request " << i;
        EXPECT_EQ(found[i].logprobs, expected[i].logprobs) << mesh.describe() << " request " << i;
        EXPECT_EQ(found[i].text, expected[i].text) << mesh.describe() << " request " << i;
        EXPECT_EQ(found[i].cached_tokens, expected[i].cached_tokens) << mesh.describe() << " request " << i;
      }
    });
  }
}

TEST_F(GenerationOverRanks, ScoresAreThoseOfOneProcess) {
  const std::vector<int32_t> text = random_tokens(config_, 400, 1);
  std::vector<TokenPair> pairs;
  for (uint64_t i = 0; i < 12; ++i) {
    pairs.push_back({random_tokens(config_, 90, i / 3), random_tokens(config_, 1 + static_cast<int64_t>(i % 4), i)});
  }
  const auto scores = [&](RunnerRanks* ranks) {
    std::vector<double> all;
    {
      const auto engine = drawn_engine(config_, {.context_length = 100, .prefill_chunk = 32, .ranks = ranks});
      all = score_text(*engine, tokenizer_, text).logprobs;
    }
    ModelRunner runner(config_, scoring_options(config_, {.context_length = 120, .ranks = ranks}));
    runner.allocate();
    runner.initialize(3);
    for (const ContinuationScore& score : score_pairs(runner, pairs)) {
      all.push_back(score.logprob);
      all.push_back(score.is_greedy ? 1 : 0);
    }
    return all;
  };
  const std::vector<double> expected = scores(nullptr);
  for (const Mesh& mesh : meshes()) {
    as_first_rank(config_, mesh, [&](RunnerRanks* ranks) { EXPECT_EQ(scores(ranks), expected) << mesh.describe(); });
  }
}

// The first op whose output overflows is named, wherever it runs, and the ranks go on. They load the model from files.
TEST_F(GenerationOverRanks, AnOverflowNamesTheOpThatOneProcessNames) {
  const std::vector<int32_t> tokens = {5, 6, 7, 8, 9};
  for (const std::string weight : {"model.norm.weight", "model.layers.1.mlp.experts.{}.down_proj.weight"}) {
    testing::DrawnModel drawn(config_);
    const Tensor value = drawn.model.parameters().find(weight)->value;
    std::fill_n(value.host<float>(), value.numel(), 3e38f);
    TemporaryFolder folder;
    save_model(folder.path(), drawn.model, DType::kF32);
    const auto message = [&](RunnerRanks* ranks) {
      InferenceEngine engine(config_, {.ranks = ranks});
      engine.allocate();
      engine.load(ModelDirectory(folder.path()));
      return message_of([&] { score_continuation(engine, std::span(tokens).first(3), std::span(tokens).last(2)); });
    };
    const std::string expected = message(nullptr);
    EXPECT_NE(expected.find(" gave a value that is not finite in its output "), std::string::npos) << expected;
    for (const Mesh& mesh : meshes()) {
      const auto body = [&](RunnerRanks* ranks) {
        EXPECT_EQ(message(ranks), expected) << mesh.describe();
        EXPECT_FALSE(ranks->lost());
      };
      as_first_rank(config_, mesh, body, folder.path());
    }
  }
}

TEST(RunnerRanks, LayoutsThatAreNoneListThoseThatAre) {
  const ModelConfig config = testing::tiny_v3();  // 3 layers, 8 experts
  EXPECT_EQ(lay_out_ranks(config, 4), (Mesh{.ep = 4}));
  EXPECT_EQ(lay_out_ranks(config, 4, 2), (Mesh{.pp = 2, .ep = 2}));
  EXPECT_EQ(lay_out_ranks(config, 6, 0, 2), (Mesh{.pp = 3, .ep = 2}));
  EXPECT_EQ(lay_out_ranks(config, 3, 3, 1), (Mesh{.pp = 3}));
  expect_usage_error([&] { lay_out_ranks(config, 3); },
                     "3 ranks cannot hold a model of 3 layers and 8 routed experts a layer as pipeline-parallel 1 x "
                     "expert-parallel 3; use --pipeline-parallel 3 --expert-parallel 1");
  expect_usage_error([&] { lay_out_ranks(config, 4, 4); },
                     "4 ranks cannot hold a model of 3 layers and 8 routed experts a layer as pipeline-parallel 4 x "
                     "expert-parallel 1; use --pipeline-parallel 1 --expert-parallel 4 or --pipeline-parallel 2 "
                     "--expert-parallel 2");
  expect_usage_error([&] { lay_out_ranks(config, 2, 1, 4); },
                     "2 ranks cannot hold a model of 3 layers and 8 routed experts a layer as pipeline-parallel 1 x "
                     "expert-parallel 4; use --pipeline-parallel 1 --expert-parallel 2 or --pipeline-parallel 2 "
                     "--expert-parallel 1");
  expect_usage_error([&] { lay_out_ranks(config, 5); },
                     "5 ranks cannot hold a model of 3 layers and 8 routed experts a layer as pipeline-parallel 1 x "
                     "expert-parallel 5; no layout of 5 ranks can: take a number that divides the experts, or at most "
                     "as many as layers");
}

TEST(RunnerRanks, TheLineAtTheBeginningSaysWhatEachTakes) {
  const auto of = [](const std::vector<int64_t>& bytes) {
    std::vector<RankMemory> memory;
    for (const int64_t planned : bytes) memory.push_back({.planned = planned, .available = 0, .largest = ""});
    return describe_ranks({.ep = static_cast<int>(bytes.size())}, memory);
  };
  EXPECT_EQ(of({5'000'000, 5'000'000}), "2 ranks: pp 1 x ep 2; memory of each: 5.0 MB");
  EXPECT_EQ(of({5'000'000, 6'000'000}), "2 ranks: pp 1 x ep 2; memory of each: 5.0 MB, 6.0 MB");
  EXPECT_EQ(of({5'000'000, 6'000'000, 9'000'000, 4'000'000, 7'000'000}),
            "5 ranks: pp 1 x ep 5; memory of each: 4.0 MB to 9.0 MB (rank 2)");
}

TEST(RunnerRanks, MemoryOfOneHostIsThatOfAllItsRanks) {
  const auto rank = [](int64_t planned, int64_t available, int64_t ranks) {
    return RankMemory{.planned = planned, .available = available, .ranks_of_host = ranks, .largest = ""};
  };
  EXPECT_EQ(rank_without_memory({rank(70, 100, 1)}), -1);
  EXPECT_EQ(rank_without_memory({rank(70, 60, 1)}), 0);
  EXPECT_EQ(rank_without_memory({rank(70, 100, 2), rank(30, 100, 2)}), -1);
  EXPECT_EQ(rank_without_memory({rank(70, 100, 2), rank(40, 100, 2)}), 0);
  EXPECT_EQ(rank_without_memory({rank(70, 100, 1), rank(110, 100, 1)}), 1);
  EXPECT_EQ(rank_without_memory({rank(40, 100, 2), rank(40, 100, 2), rank(60, 100, 2), rank(40, 100, 2)}), 2);
}

}  // namespace
}  // namespace deeptitan
