#include <cstdint>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/permute/permute.h"

namespace deeptitan::cpu {
namespace {

struct SortedRows {
  std::vector<int32_t> row_of_slot, slot_of_row, group_offset, sizes;
  int32_t row_overflow = 0;
};

SortedRows sorted(const std::vector<int32_t>& counts, const ReceivedRowsShape& shape) {
  SortedRows s{std::vector<int32_t>(shape.rows, 77), std::vector<int32_t>(shape.rows, 77),
               std::vector<int32_t>(shape.experts + 1, 77), std::vector<int32_t>(shape.experts, 77), 0};
  sort_received_rows(s.row_of_slot.data(), s.slot_of_row.data(), s.group_offset.data(), s.sizes.data(), &s.row_overflow,
                     counts.data(), shape);
  return s;
}

TEST(SortReceivedRows, ExampleOfTheHeader) {
  const SortedRows s = sorted({1, 2, 2, 0}, {.ranks = 2, .experts = 2, .rows = 7});
  EXPECT_EQ(s.row_of_slot, (std::vector<int32_t>{0, 3, 4, 1, 2, -1, -1}));
  EXPECT_EQ(s.slot_of_row, (std::vector<int32_t>{0, 3, 4, 1, 2, -1, -1}));
  EXPECT_EQ(s.group_offset, (std::vector<int32_t>{0, 3, 5}));
  EXPECT_EQ(s.sizes, (std::vector<int32_t>{3, 2}));
}

// What sort_slots makes of the rows' experts.
TEST(SortReceivedRows, IsAStableSortByExpert) {
  std::mt19937 random(5);
  for (const int ranks : {1, 2, 5}) {
    for (const int experts : {1, 3, 32}) {
      std::vector<int32_t> counts, expert_of_slot, of_expert(experts, 0);
      for (int i = 0; i < ranks * experts; ++i) {
        counts.push_back(static_cast<int32_t>(random() % 4));
        expert_of_slot.insert(expert_of_slot.end(), counts.back(), i % experts);
        of_expert[i % experts] += counts.back();
      }
      const auto slots = static_cast<int64_t>(expert_of_slot.size());
      const SortedRows s = sorted(counts, {.ranks = ranks, .experts = experts, .rows = slots + 3});
      std::vector<int32_t> row_of_slot(slots), slot_of_row(slots + 3), group_offset(experts + 1);
      sort_slots(row_of_slot.data(), slot_of_row.data(), group_offset.data(), expert_of_slot.data(), of_expert.data(),
                 {slots, experts, 1, slots + 3});
      row_of_slot.insert(row_of_slot.end(), 3, -1);
      EXPECT_EQ(s.row_of_slot, row_of_slot);
      EXPECT_EQ(s.slot_of_row, slot_of_row);
      EXPECT_EQ(s.group_offset, group_offset);
      EXPECT_EQ(s.sizes, of_expert);
    }
  }
}

TEST(SortReceivedRows, NoRowsAndTooMany) {
  EXPECT_EQ(sorted({0, 0}, {.ranks = 2, .experts = 1, .rows = 2}).slot_of_row, (std::vector<int32_t>{-1, -1}));
  const SortedRows many = sorted({1, 2}, {.ranks = 2, .experts = 1, .rows = 2});
  EXPECT_EQ(many.row_overflow, 1);
  EXPECT_EQ(many.slot_of_row, (std::vector<int32_t>{-1, -1}));
  EXPECT_EQ(many.group_offset, (std::vector<int32_t>{0, 0}));
  EXPECT_EQ(many.sizes, (std::vector<int32_t>{0}));
  EXPECT_EQ(sorted({1, 1}, {.ranks = 2, .experts = 1, .rows = 2}).row_overflow, 0);
}

}  // namespace
}  // namespace deeptitan::cpu
