#include "train/rank_batches.h"

#include <vector>

#include <gtest/gtest.h>

#include "data/synthetic_source.h"
#include "support/rank_layout.h"

namespace deeptitan {
namespace {

constexpr int64_t kBatchLength = 7;

// Two steps' token ids, sequence by sequence, as all ranks together have them.
std::vector<int32_t> ids_of_two_steps(int ranks) {
  constexpr int64_t kMicrobatch = 12, kCount = 2, kSteps = 2;
  const int64_t local = kMicrobatch / ranks;
  std::vector<int32_t> ids(kSteps * kCount * kMicrobatch * kBatchLength);
  testing::run_on_mesh({.dp_shard = ranks}, [&](const RankGroups& groups) {
    SyntheticSource source(100, kBatchLength, 3);
    RankBatches batches(groups.data, local, kBatchLength);
    for (int64_t step = 0; step < kSteps; ++step) {
      batches.draw_step(source, kCount);
      EXPECT_EQ(batches.step_targets(), kCount * kMicrobatch * kBatchLength);
      for (int64_t m = 0; m < kCount; ++m) {
        const std::vector<int32_t>& mine = batches.step()[m].tokens;
        const int64_t first = ((step * kCount + m) * kMicrobatch + rank_in(groups.data) * local) * kBatchLength;
        std::copy(mine.begin(), mine.end(), ids.begin() + first);
      }
    }
  });
  return ids;
}

TEST(RankBatches, AStepsSequencesDoNotDependOnTheLayout) {
  const std::vector<int32_t> expected = ids_of_two_steps(1);
  EXPECT_GT(std::count_if(expected.begin(), expected.end(), [](int32_t id) { return id > 0; }), 100);
  for (const int ranks : {2, 3, 4}) EXPECT_EQ(ids_of_two_steps(ranks), expected) << ranks;
}

}  // namespace
}  // namespace deeptitan
