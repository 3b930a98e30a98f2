#include "kernels/reference/permute_indices.h"

#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "kernels/permute_indices_cases.h"

namespace deeptitan::cpu {
namespace {

PermutedIndices permute(const std::vector<int32_t>& counts, const PermuteIndicesShape& shape) {
  PermutedIndices out{std::vector<int32_t>(shape.row_capacity, 77), std::vector<int32_t>(shape.local_experts, 77),
                      std::vector<int32_t>(shape.local_experts + 1, 77), std::vector<int32_t>(shape.row_capacity, 77)};
  permute_indices(out.input_row.data(), out.group_size.data(), out.group_offset.data(), counts.data(), shape);
  group_of_rows(out.group.data(), out.group_offset.data(), out.group_size.data(), shape.local_experts,
                shape.row_capacity);
  return out;
}

TEST(PermuteIndices, ExampleOfTheHeader) {
  const PermutedIndices out = permute({1, 2, 2, 0}, {2, 2, 4, 8});
  EXPECT_EQ(out.group_size, (std::vector<int32_t>{3, 2}));
  EXPECT_EQ(out.group_offset, (std::vector<int32_t>{0, 4, 8}));
  EXPECT_EQ(out.input_row, (std::vector<int32_t>{0, 3, 4, -1, 1, 2, -1, -1}));
  EXPECT_EQ(out.group, (std::vector<int32_t>{0, 0, 0, -1, 1, 1, -1, -1}));
}

TEST(PermuteIndices, MatchesTheReferenceAndFitsAnyCapacity) {
  unsigned seed = 0;
  for (const PermuteIndicesCase& c : permute_indices_cases()) {
    const std::vector<int32_t> counts = random_counts(c, ++seed);
    const int64_t rows = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    for (const int64_t capacity : {rows + c.local_experts * c.alignment + 3, rows / 2, int64_t{0}}) {
      const PermuteIndicesShape shape{c.ranks, c.local_experts, c.alignment, capacity};
      const PermutedIndices expected = reference_permute_indices(counts, shape);
      const PermutedIndices out = permute(counts, shape);
      ASSERT_EQ(out.input_row, expected.input_row);
      ASSERT_EQ(out.group_size, expected.group_size);
      ASSERT_EQ(out.group_offset, expected.group_offset);
      ASSERT_EQ(out.group, expected.group);
    }
  }
}

TEST(PermuteIndices, ExpertWithoutTokensKeepsAlignment) {
  const PermutedIndices out = permute({5, 0, 3}, {1, 3, 8, 16});
  EXPECT_EQ(out.group_offset, (std::vector<int32_t>{0, 8, 8, 16}));
  EXPECT_EQ(out.group_size, (std::vector<int32_t>{5, 0, 3}));
}

TEST(PermuteIndices, SaysWhichSizeIsOutOfRange) {
  const auto message = [](const PermuteIndicesShape& shape) -> std::string {
    try {
      check_permute_indices_shape(shape);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(message({1, 1, 1, 0}), "no error");
  EXPECT_EQ(message({0, 1, 1, 0}), "permute_indices: source_ranks = 0, must be at least 1");
  EXPECT_EQ(message({1, 0, 1, 0}), "permute_indices: local_experts = 0, must be at least 1");
  EXPECT_EQ(message({128, 65, 1, 0}),
            "permute_indices: 128 source ranks times 65 local experts are more than 8192 segments");
  EXPECT_EQ(message({1, 1, 0, 0}), "permute_indices: alignment = 0, must be at least 1");
  EXPECT_EQ(message({1, 1, 1, -1}), "permute_indices: row_capacity = -1, must not be negative");
}

TEST(GroupOfRows, SizesAndOffsetsSkipEmptyGroups) {
  std::vector<int32_t> expected(512);
  for (int r = 0; r < 512; ++r) expected[r] = r < 128 ? 0 : r < 256 ? 2 : r < 384 ? 3 : -1;
  std::vector<int32_t> group(512, 77);
  const std::vector<int32_t> offsets{0, 128, 128, 256, 384};
  group_of_rows(group.data(), offsets.data(), nullptr, 4, 512);
  EXPECT_EQ(group, expected);
  const std::vector<int32_t> sizes{128, 0, 128, 128};
  std::fill(group.begin(), group.end(), 77);
  group_of_rows_from_sizes(group.data(), sizes.data(), 4, 512);
  EXPECT_EQ(group, expected);
  group_of_rows_from_sizes(group.data(), sizes.data(), 4, 100);
  EXPECT_EQ(std::vector<int32_t>(group.begin(), group.begin() + 100), std::vector<int32_t>(100, 0));
}

}  // namespace
}  // namespace deeptitan::cpu
