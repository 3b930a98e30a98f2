// A model whose experts are shared out to ranks: the logits of one rank with all of them.

#include <vector>

#include <gtest/gtest.h>

#include "generate/model_fixture.h"
#include "support/expect_error.h"
#include "support/rank_layout.h"

namespace deeptitan {
namespace {

using testing::drawn_engine;
using testing::random_tokens;

// Of a prompt in two chunks and two more tokens.
std::vector<std::vector<float>> logits_of(const ModelConfig& config, DType compute, Communicator* ep, int64_t* bytes) {
  const auto engine = drawn_engine(config, {.compute = compute, .prefill_chunk = 8, .ep = ep});
  *bytes = engine->plan().total();
  std::vector<std::vector<float>> logits;
  const std::vector<int32_t> tokens = random_tokens(config, 15, 4);
  for (const std::span<const int32_t> part :
       {std::span(tokens).first(13), std::span(tokens).subspan(13, 1), std::span(tokens).subspan(14, 1)}) {
    const std::span<const float> found = engine->prefill(part);
    logits.emplace_back(found.begin(), found.end());
  }
  return logits;
}

TEST(ExpertRanks, LogitsHaveTheBitsOfOneRank) {
  for (ModelConfig config : {testing::tiny_v2(), testing::tiny_v3()}) {
    config.moe_intermediate_size = 64;
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      int64_t whole = 0;
      const auto expected = logits_of(config, compute, nullptr, &whole);
      for (const int ranks : {2, 4}) {
        testing::run_on_mesh({.ep = ranks}, [&](const RankGroups& groups) {
          int64_t shared = 0;
          EXPECT_EQ(logits_of(config, compute, groups.ep, &shared), expected) << ranks;
          EXPECT_LT(shared, whole);
        });
      }
    }
  }
}

TEST(ExpertRanks, ExpertsThatCannotBeSharedOutAreRefused) {
  expect_usage_error(
      [] {
        testing::run_on_mesh({.ep = 3},
                             [](const RankGroups& groups) { InferenceEngine(testing::tiny_v3(), {.ep = groups.ep}); });
      },
      "3 ranks cannot share 8 routed experts out equally; use an expert-parallel degree of 1, 2, 4, 8");
}

}  // namespace
}  // namespace deeptitan
