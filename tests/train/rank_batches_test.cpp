#include "train/rank_batches.h"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "data/synthetic_source.h"

namespace deeptitan {
namespace {

constexpr int64_t kBatchLength = 7;

// Two steps' token ids, sequence by sequence, as all ranks together have them.
std::vector<int32_t> ids_of_two_steps(int ranks) {
  constexpr int64_t kSequencesOfAll = 12, kCount = 2, kDrawnSteps = 2;
  const int64_t local = kSequencesOfAll / ranks;
  std::vector<int32_t> ids(kDrawnSteps * kCount * kSequencesOfAll * kBatchLength);
  for (int rank = 0; rank < ranks; ++rank) {
    SyntheticSource source(100, kBatchLength, 3);
    StepBatches batches;
    for (int64_t step = 0; step < kDrawnSteps; ++step) {
      draw_step(source, kCount, local, rank, ranks, batches);
      EXPECT_EQ(batches.targets, kCount * kSequencesOfAll * kBatchLength);
      for (int64_t m = 0; m < kCount; ++m) {
        const std::vector<int32_t>& mine = batches.mine[m].tokens;
        const int64_t first = ((step * kCount + m) * kSequencesOfAll + rank * local) * kBatchLength;
        std::copy(mine.begin(), mine.end(), ids.begin() + first);
      }
    }
  }
  return ids;
}

TEST(RankBatches, AStepsSequencesDoNotDependOnTheLayout) {
  const std::vector<int32_t> expected = ids_of_two_steps(1);
  EXPECT_GT(std::count_if(expected.begin(), expected.end(), [](int32_t id) { return id > 0; }), 100);
  for (const int ranks : {2, 3, 4}) EXPECT_EQ(ids_of_two_steps(ranks), expected) << ranks;
}

}  // namespace
}  // namespace deeptitan
