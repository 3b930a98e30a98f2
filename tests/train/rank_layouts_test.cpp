// Training on every layout of 1 to 4 ranks against one rank, with threads as ranks: what the sum of a step is made of
// changes its order and nothing else.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "support/rank_layout.h"
#include "support/thread_memory.h"
#include "support/tiny_model.h"
#include "train/layout_run.h"

namespace deeptitan {
namespace {

using testing::Choices;
using testing::empty_choices;
using testing::empty_tensors;
using testing::kIdleRankStep;
using testing::kNotFiniteStep;
using testing::kRankLength;
using testing::kRankMaxNorm;
using testing::kRankSteps;
using testing::meshes_of;
using testing::RankRun;
using testing::run_on_mesh;
using testing::train_rank;
using testing::TrainedRanks;
using testing::twelve_experts;

TrainedRanks train_ranks(const Mesh& layout, Choices* choices, const RankRun& run = {}) {
  TrainedRanks result;
  result.gradients = result.values = empty_tensors(twelve_experts());
  run_on_mesh(layout, [&](const RankGroups& groups) {
    RankGroups mine = groups;
    std::optional<testing::ThreadMemory> rows, gradients;
    if (run.on_device) mine.expert_memory = &rows.emplace(Device(), *groups.ep);
    if (run.in_place) mine.gradient_memory = mine.value_memory = &gradients.emplace(Device(), *groups.dense.shard);
    train_rank(layout, mine, choices, run, /*speaks=*/rank_in(groups.data) == 0, result);
  });
  return result;
}

// One rank's run, and what its tokens chose.
struct Expected {
  Choices choices = empty_choices();
  TrainedRanks run = train_ranks({}, &choices, {.replay = false});
};
Expected& expected() {
  static Expected one_rank;
  return one_rank;
}

void expect_those_of_one_rank(const TrainedRanks& found) {
  testing::expect_those_of_one_rank(found, expected().run);
}

TEST(RankLayouts, TheReferenceClipsSkipsAndLearns) {
  const TrainedRanks& one = expected().run;
  for (int step = 1; step <= kRankSteps; ++step) EXPECT_EQ(one.finite[step - 1], step != kNotFiniteStep) << step;
  EXPECT_GT(one.norms.front(), kRankMaxNorm);
  EXPECT_GT(one.norms.back(), kRankMaxNorm);
}

TEST(RankLayouts, GradientsAndLossesAreThoseOfOneRank) {
  for (const Mesh& layout : meshes_of({2, 3, 4})) {
    SCOPED_TRACE(layout.describe());
    expect_those_of_one_rank(train_ranks(layout, &expected().choices));
  }
}

// In buckets so small that many share their memory.
TEST(RankLayouts, GradientsInPartsAreThoseOfOneRank) {
  for (const Mesh& layout :
       {Mesh{.dp_shard = 2}, Mesh{.ep = 2}, Mesh{.ep = 2, .dp_shard = 2}, Mesh{.dp_shard = 2, .dp_replicate = 2}}) {
    SCOPED_TRACE(layout.describe());
    expect_those_of_one_rank(train_ranks(layout, &expected().choices, {.zero_stage = 2, .bucket_elements = 600}));
  }
}

// Before the first update all is equal but for sums that no choice depends on; later rounding turns what is nearly
// even.
TEST(RankLayouts, ChoicesThatNobodyHoldsDifferWhereTheyAreNearlyEven) {
  for (const Mesh& layout : {Mesh{.dp_shard = 3}, Mesh{.ep = 2, .dp_shard = 2}}) {
    SCOPED_TRACE(layout.describe());
    Choices found = empty_choices();
    train_ranks(layout, &found, {.replay = false});
    EXPECT_EQ(found[0], expected().choices[0]);
    int64_t turned = 0, all = 0;
    for (size_t step = 1; step < found.size(); ++step) {
      for (size_t m = 0; m < found[step].size(); ++m) {
        for (size_t layer = 0; layer < found[step][m].size(); ++layer) {
          for (size_t i = 0; i < found[step][m][layer].size(); ++i, ++all) {
            turned += found[step][m][layer][i] != expected().choices[step][m][layer][i] ? 1 : 0;
          }
        }
      }
    }
    RecordProperty("turned", std::to_string(turned) + " of " + std::to_string(all));
    EXPECT_LT(turned, all / 200);
  }
}

// Room for the mean: some rank's experts get more in nearly every step, and the step is run again in slices that fit.
TEST(RankLayouts, RowsThatOverflowAreRunAgainInSlices) {
  for (const Mesh& layout : {Mesh{.ep = 2}, Mesh{.ep = 2, .dp_shard = 2}}) {
    SCOPED_TRACE(layout.describe());
    const TrainedRanks found = train_ranks(layout, &expected().choices, {.steps = 5, .expert_room = 1.0});
    EXPECT_EQ(found.overflows[kIdleRankStep - 1], 1);
    expect_those_of_one_rank(found);
    const TrainedRanks roomy = train_ranks(layout, &expected().choices, {.steps = 2, .expert_room = 1.99});
    EXPECT_EQ(roomy.overflows, (std::vector<int64_t>{0, 0}));
  }
}

// Rows have the same places in the same order, so all bits are equal: the gradients', losses', values' and
// validation's.
TEST(RankLayouts, RowsFromKernelToKernelHaveTheBitsOfAllToAll) {
  for (const Mesh& layout : {Mesh{.ep = 2}, Mesh{.ep = 3}, Mesh{.ep = 4}, Mesh{.ep = 2, .dp_shard = 2}}) {
    SCOPED_TRACE(layout.describe());
    RankRun run{.steps = 6, .zero_stage = 2, .bucket_elements = 600};
    const TrainedRanks one = train_ranks(layout, &expected().choices, run);
    run.on_device = true;
    const TrainedRanks other = train_ranks(layout, &expected().choices, run);
    expect_those_of_one_rank(other);
    testing::expect_same_bits(other, one);
  }
}

TEST(RankLayouts, RowsFromKernelToKernelThatOverflowAreRunAgainInSlices) {
  for (const Mesh& layout : {Mesh{.ep = 2}, Mesh{.ep = 2, .dp_shard = 2}}) {
    SCOPED_TRACE(layout.describe());
    const TrainedRanks found =
        train_ranks(layout, &expected().choices, {.steps = 5, .expert_room = 1.0, .on_device = true});
    EXPECT_EQ(found.overflows[kIdleRankStep - 1], 1);
    expect_those_of_one_rank(found);
  }
}

TEST(RankLayouts, RowsFromKernelToKernelAreRecomputedWithTheSameBits) {
  const Mesh layout{.ep = 2};
  const TrainedRanks kept = train_ranks(layout, &expected().choices, {.steps = 2, .on_device = true});
  for (const Recomputation what : {Recomputation::kCheap, Recomputation::kLayers}) {
    const RankRun run{.steps = 2, .recomputation = what, .on_device = true};
    EXPECT_EQ(kept.values, train_ranks(layout, &expected().choices, run).values);
  }
}

// Whether all ranks share out all parameters, or the experts' ranks are others.
TEST(RankLayouts, GradientsAddedUpFromWhereTheyLieHaveTheBitsOfThoseExchanged) {
  for (const Mesh& layout : {Mesh{.dp_shard = 2}, Mesh{.dp_shard = 3}, Mesh{.ep = 2}, Mesh{.ep = 2, .dp_shard = 2},
                             Mesh{.dp_shard = 2, .dp_replicate = 2}}) {
    for (const int zero_stage : {1, 2}) {
      SCOPED_TRACE(fmt::format("{}, ZeRO-{}", layout.describe(), zero_stage));
      RankRun run{.steps = 6, .zero_stage = zero_stage, .bucket_elements = 600};
      const TrainedRanks exchanged = train_ranks(layout, &expected().choices, run);
      run.in_place = run.on_device = true;
      const TrainedRanks in_place = train_ranks(layout, &expected().choices, run);
      expect_those_of_one_rank(in_place);
      testing::expect_same_bits(in_place, exchanged);
    }
  }
}

// New values come in bf16 to those who read them so, and in fp32 where they are written to files.
TEST(RankLayouts, ValuesFetchedInBf16LeaveTheBitsOfThoseExchanged) {
  for (const Mesh& layout : {Mesh{.dp_shard = 2}, Mesh{.dp_shard = 3}, Mesh{.ep = 2, .dp_shard = 2}}) {
    for (const int zero_stage : {1, 2}) {
      SCOPED_TRACE(fmt::format("{}, ZeRO-{}", layout.describe(), zero_stage));
      RankRun run{.steps = 4, .zero_stage = zero_stage, .bucket_elements = 600, .compute = DType::kBF16};
      const TrainedRanks exchanged = train_ranks(layout, &expected().choices, run);
      run.in_place = true;
      testing::expect_same_bits(train_ranks(layout, &expected().choices, run), exchanged);
    }
  }
}

TEST(RankLayouts, GradientsInPartsTakeLessMemory) {
  run_on_mesh({.dp_shard = 2}, [](const RankGroups& groups) {
    const auto gradient_bytes = [&](int zero_stage) {
      TrainingEngineOptions options;
      options.seq_len = kRankLength;
      options.sequences = 1;
      options.zero_stage = zero_stage;
      options.bucket_elements = 600;
      options.groups = groups;
      ModelConfig config = twelve_experts();
      config.num_hidden_layers = 20;
      const TrainingEngine engine(config, options);
      for (const PlannedArena& arena : engine.plan().arenas) {
        if (arena.name == "gradients") return arena.bytes;
      }
      return int64_t{0};
    };
    // Half of it, and what few layers have at once.
    EXPECT_LT(gradient_bytes(2), gradient_bytes(1) * 3 / 4);
  });
}

// What the sums of each group take beside their tensors.
TEST(RankLayouts, WhatRanksExchangeThroughIsPlanned) {
  run_on_mesh({.dp_shard = 2}, [](const RankGroups& groups) {
    TrainingEngineOptions options;
    options.seq_len = kRankLength;
    options.sequences = 1;
    options.groups = groups;
    const TrainingEngine engine(twelve_experts(), options);
    int64_t planned = 0;
    for (const PlannedArena& arena : engine.plan().arenas) {
      if (arena.name == "exchange between ranks") planned = arena.bytes;
    }
    // Of all ranks, those with sequences of their own, and those that share the state of the experts and of the rest.
    EXPECT_EQ(planned, 4 * (int64_t{8} << 20));
  });
}

TEST(RankLayouts, RunToRunTheSameBits) {
  for (const Mesh& layout : {Mesh{.ep = 2, .dp_shard = 2}, Mesh{.ep = 3}}) {
    const TrainedRanks first = train_ranks(layout, &expected().choices, {.steps = 5});
    const TrainedRanks second = train_ranks(layout, &expected().choices, {.steps = 5});
    EXPECT_EQ(first.losses, second.losses) << layout.describe();
    EXPECT_EQ(first.values, second.values) << layout.describe();
    EXPECT_EQ(first.validation, second.validation) << layout.describe();
  }
}

// Two ranks' gradients are added up to the same bits whoever keeps what; so then are moments that are rounded at
// random.
TEST(RankLayouts, MomentsInBf16AreTheSameBitsInPartsOrWhole) {
  const RankRun run{.steps = 5, .moments = MomentsDtype::kBf16};
  const TrainedRanks whole = train_ranks({.dp_replicate = 2}, &expected().choices, run);
  const TrainedRanks in_parts = train_ranks({.dp_shard = 2}, &expected().choices, run);
  EXPECT_EQ(whole.values, in_parts.values);
  EXPECT_EQ(whole.losses, in_parts.losses);
  EXPECT_NE(whole.values, train_ranks({.dp_shard = 2}, &expected().choices, {.steps = 5}).values);
}

TEST(RankLayouts, WhatIsRecomputedHasTheSameBits) {
  for (const Mesh& layout : {Mesh{.ep = 2, .dp_shard = 2}, Mesh{.dp_shard = 2}}) {
    const TrainedRanks kept = train_ranks(layout, &expected().choices, {.steps = 2});
    for (const Recomputation what : {Recomputation::kCheap, Recomputation::kLayers}) {
      const TrainedRanks recomputed = train_ranks(layout, &expected().choices, {.steps = 2, .recomputation = what});
      EXPECT_EQ(kept.values, recomputed.values) << layout.describe();
    }
  }
}

}  // namespace
}  // namespace deeptitan
