#include "kernels/reference/all_to_all.h"

#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"

namespace deeptitan::cpu {
namespace {

TEST(AllToAllCpu, SmallExampleByHand) {
  // Rank 0 sends 1 row to itself and 2 to rank 1; rank 1 sends 0 to rank 0 and 1 to itself. A row is one int32.
  const std::vector<int32_t> rows[2] = {{10, 11, 12}, {20}};
  const std::vector<int64_t> splits[2] = {{1, 2}, {0, 1}};
  std::vector<int32_t> outputs[2] = {std::vector<int32_t>(1, -1), std::vector<int32_t>(4, -1)};
  std::vector<int64_t> output_splits[2] = {std::vector<int64_t>(2, -1), std::vector<int64_t>(2, -1)};
  std::vector<AllToAllRank<int64_t>> ranks;
  for (int r = 0; r < 2; ++r) {
    ranks.push_back({rows[r].data(), splits[r].data(), outputs[r].data(), output_splits[r].data(),
                     static_cast<int64_t>(outputs[r].size())});
  }
  const AllToAllResult result = all_to_all_v(ranks, 1, 4);
  EXPECT_FALSE(result.overflowed);
  EXPECT_EQ(outputs[0], (std::vector<int32_t>{10}));
  EXPECT_EQ(outputs[1], (std::vector<int32_t>{11, 12, 20, -1}));
  EXPECT_EQ(output_splits[0], (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(output_splits[1], (std::vector<int64_t>{2, 1}));
}

TEST(AllToAllCpu, GroupsKeepTheirOrderAndBackwardRestores) {
  // Two groups a rank: rank 0 sends (1, 0) to rank 0 and (2, 1) to rank 1; rank 1 sends (0, 2) to rank 0 and nothing
  // on.
  const std::vector<int32_t> rows[2] = {{1, 2, 3, 4}, {5, 6}};
  const std::vector<int32_t> splits[2] = {{1, 0, 2, 1}, {0, 2, 0, 0}};
  std::vector<int32_t> outputs[2] = {std::vector<int32_t>(3), std::vector<int32_t>(3)};
  std::vector<int32_t> output_splits[2] = {std::vector<int32_t>(4), std::vector<int32_t>(4)};
  std::vector<int32_t> back[2] = {std::vector<int32_t>(4), std::vector<int32_t>(2)};
  std::vector<int32_t> back_splits[2] = {std::vector<int32_t>(4), std::vector<int32_t>(4)};
  std::vector<AllToAllRank<int32_t>> forward;
  std::vector<AllToAllRank<int32_t>> backward;
  for (int r = 0; r < 2; ++r) {
    forward.push_back({rows[r].data(), splits[r].data(), outputs[r].data(), output_splits[r].data(), 3});
    backward.push_back({outputs[r].data(), output_splits[r].data(), back[r].data(), back_splits[r].data(),
                        static_cast<int64_t>(back[r].size())});
  }
  all_to_all_v(forward, 2, 4);
  EXPECT_EQ(outputs[0], (std::vector<int32_t>{1, 5, 6}));
  EXPECT_EQ(output_splits[0], (std::vector<int32_t>{1, 0, 0, 2}));
  EXPECT_EQ(outputs[1], (std::vector<int32_t>{2, 3, 4}));
  EXPECT_EQ(output_splits[1], (std::vector<int32_t>{2, 1, 0, 0}));
  all_to_all_v(backward, 2, 4);
  for (int r = 0; r < 2; ++r) {
    EXPECT_EQ(back[r], rows[r]);
    EXPECT_EQ(back_splits[r], splits[r]);
  }
}

TEST(AllToAllCpu, OverflowMovesNothingAndSaysWhoNeedsMost) {
  const std::vector<int32_t> rows[2] = {{1, 2, 3}, {4, 5, 6}};
  const std::vector<int64_t> splits[2] = {{0, 3}, {1, 2}};
  std::vector<int32_t> outputs[2] = {std::vector<int32_t>(0), std::vector<int32_t>(4, -1)};
  std::vector<int64_t> output_splits[2] = {std::vector<int64_t>(2, -1), std::vector<int64_t>(2, -1)};
  std::vector<AllToAllRank<int64_t>> ranks;
  for (int r = 0; r < 2; ++r) {
    ranks.push_back({rows[r].data(), splits[r].data(), outputs[r].data(), output_splits[r].data(),
                     static_cast<int64_t>(outputs[r].size())});
  }
  const AllToAllResult result = all_to_all_v(ranks, 1, 4);
  EXPECT_TRUE(result.overflowed);
  EXPECT_EQ(result.overflow_rank, 1);
  EXPECT_EQ(result.rows_needed, 5);
  EXPECT_EQ(outputs[1], std::vector<int32_t>(4, -1));
  for (const auto& received : output_splits) EXPECT_EQ(received, std::vector<int64_t>(2, 0));
}

TEST(AllToAllCpu, NegativeSplitIsAnError) {
  const std::vector<int64_t> splits = {-1};
  std::vector<int64_t> output_splits(1);
  const std::vector<AllToAllRank<int64_t>> ranks = {{nullptr, splits.data(), nullptr, output_splits.data(), 0}};
  try {
    all_to_all_v(ranks, 1, 4);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "all-to-all: rank 0 asked to send rank 0 -1 rows of group 0; splits cannot be negative");
  }
}

}  // namespace
}  // namespace deeptitan::cpu
