#include <cstdint>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "kernels/cpu/permute/permute.h"

namespace deeptitan::cpu {
namespace {

std::vector<int32_t> count_slots(const std::vector<int32_t>& expert_index, int experts) {
  std::vector<int32_t> counts(experts, 0);
  for (int32_t e : expert_index) ++counts[e];
  return counts;
}

TEST(SortSlots, ExampleOfTheHeader) {
  const std::vector<int32_t> expert_index{1, 0, 1};
  std::vector<int32_t> row_of_slot(3), slot_of_row(4), group_offset(3);
  sort_slots(row_of_slot.data(), slot_of_row.data(), group_offset.data(), expert_index.data(),
             count_slots(expert_index, 2).data(), {3, 2, 2, 4});
  EXPECT_EQ(group_offset, (std::vector<int32_t>{0, 2, 4}));
  EXPECT_EQ(slot_of_row, (std::vector<int32_t>{1, -1, 0, 2}));
  EXPECT_EQ(row_of_slot, (std::vector<int32_t>{2, 0, 3}));
}

TEST(SortSlots, IsAStableSortWithPaddedGroups) {
  std::mt19937 random(3);
  for (const int experts : {1, 3, 64, 384}) {
    for (const int slots : {0, 1, 7, 1000}) {
      for (const int alignment : {1, 8, 128}) {
        std::vector<int32_t> expert_index(slots);
        for (int32_t& e : expert_index) e = static_cast<int32_t>(random() % experts) / 2 * 2;  // odd experts stay empty
        const std::vector<int32_t> counts = count_slots(expert_index, experts);
        const int64_t capacity = max_sorted_rows(slots, experts, alignment) + 5;
        std::vector<int32_t> row_of_slot(slots, 77), slot_of_row(capacity, 77), group_offset(experts + 1, 77);
        sort_slots(row_of_slot.data(), slot_of_row.data(), group_offset.data(), expert_index.data(), counts.data(),
                   {slots, experts, alignment, capacity});
        int32_t row = 0;
        for (int e = 0; e < experts; ++e) {
          ASSERT_EQ(group_offset[e], row);
          for (int32_t slot = 0; slot < slots; ++slot) {
            if (expert_index[slot] != e) continue;
            ASSERT_EQ(slot_of_row[row], slot);
            ASSERT_EQ(row_of_slot[slot], row);
            ++row;
          }
          while (row % alignment != 0) ASSERT_EQ(slot_of_row[row++], -1);
        }
        ASSERT_EQ(group_offset[experts], row);
        ASSERT_LE(row, max_sorted_rows(slots, experts, alignment));
        for (; row < capacity; ++row) ASSERT_EQ(slot_of_row[row], -1);
      }
    }
  }
}

TEST(SortSlots, WhatDoesNotFitHasNoRowAtAll) {
  const std::vector<int32_t> expert_index{1, 0, 1};
  const std::vector<int32_t> counts = count_slots(expert_index, 2);
  for (const int64_t capacity : {4, 3}) {  // with an alignment of 2, four rows are needed
    std::vector<int32_t> row_of_slot(3, 77), slot_of_row(capacity, 77), group_offset(3, 77), group_size(2, 77);
    int32_t overflow = 0;
    sort_slots_that_fit(row_of_slot.data(), slot_of_row.data(), group_offset.data(), group_size.data(), &overflow,
                        expert_index.data(), counts.data(), {3, 2, 2, capacity});
    const bool fits = capacity == 4;
    EXPECT_EQ(overflow, fits ? 0 : 1);
    EXPECT_EQ(group_size, fits ? counts : std::vector<int32_t>(2, 0));
    EXPECT_EQ(group_offset, fits ? (std::vector<int32_t>{0, 2, 4}) : std::vector<int32_t>(3, 0));
    EXPECT_EQ(slot_of_row, fits ? (std::vector<int32_t>{1, -1, 0, 2}) : std::vector<int32_t>(3, -1));
    EXPECT_EQ(row_of_slot, fits ? (std::vector<int32_t>{2, 0, 3}) : std::vector<int32_t>(3, -1));
  }
}

TEST(SortSlots, SaysWhatIsWrong) {
  std::vector<int32_t> row_of_slot(3), slot_of_row(8), group_offset(3);
  const std::vector<int32_t> expert_index{1, 0, 1};
  const auto message = [&](const std::vector<int32_t>& index, const std::vector<int32_t>& counts, int64_t capacity) {
    try {
      sort_slots(row_of_slot.data(), slot_of_row.data(), group_offset.data(), index.data(), counts.data(),
                 {3, 2, 2, capacity});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(message(expert_index, {1, 2}, 4), "no error");
  EXPECT_EQ(message(expert_index, {1, 2}, 3),
            "sort_slots: expert 1 ends at row 4, past the capacity of 3 rows; max_sorted_rows gives 4 for 3 slots");
  EXPECT_EQ(message(expert_index, {1, 1}, 8), "sort_slots: the counts sum to 2 but there are 3 slots");
  EXPECT_EQ(message({1, 5, 1}, {1, 2}, 8),
            "sort_slots: slot 1 chose expert 5, which the counts do not have (experts 0 to 1)");
}

}  // namespace
}  // namespace deeptitan::cpu
