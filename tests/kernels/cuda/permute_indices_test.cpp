#include "kernels/cuda/permute_indices/permute_indices.h"

#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "kernels/cuda/device_buffer.h"
#include "kernels/permute_indices_cases.h"
#include "kernels/reference/permute_indices.h"

namespace deeptitan::cuda {
namespace {

TEST(CudaPermuteIndices, MatchesTheReferenceAndTheCpuAndFitsAnyCapacity) {
  DT_SKIP_WITHOUT_GPU();
  unsigned seed = 0;
  for (const PermuteIndicesCase& c : permute_indices_cases()) {
    const std::vector<int32_t> counts = random_counts(c, ++seed);
    const int64_t rows = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    for (const int64_t capacity : {rows + c.local_experts * c.alignment + 3, rows / 2, int64_t{0}}) {
      const PermuteIndicesShape shape{c.ranks, c.local_experts, c.alignment, capacity};
      const PermutedIndices expected = reference_permute_indices(counts, shape);
      DeviceBuffer<int32_t> device_counts(counts), input_row(capacity), group_size(c.local_experts),
          group_offset(c.local_experts + 1), group(capacity);
      permute_indices(input_row.get(), group_size.get(), group_offset.get(), device_counts.get(), shape, nullptr);
      group_of_rows(group.get(), group_offset.get(), group_size.get(), c.local_experts, capacity, nullptr);
      ASSERT_EQ(input_row.download(), expected.input_row) << c.ranks << " ranks, capacity " << capacity;
      ASSERT_EQ(group_size.download(), expected.group_size);
      ASSERT_EQ(group_offset.download(), expected.group_offset);
      ASSERT_EQ(group.download(), expected.group);

      std::vector<int32_t> from_sizes(capacity);
      cpu::group_of_rows_from_sizes(from_sizes.data(), expected.group_size.data(), c.local_experts, capacity);
      group_of_rows_from_sizes(group.get(), group_size.get(), c.local_experts, capacity, nullptr);
      ASSERT_EQ(group.download(), from_sizes);
    }
  }
}

TEST(CudaPermuteIndices, OffsetsAndSizesSkipEmptyGroups) {
  DT_SKIP_WITHOUT_GPU();
  std::vector<int32_t> expected(512);
  for (int r = 0; r < 512; ++r) expected[r] = r < 128 ? 0 : r < 256 ? 2 : r < 384 ? 3 : -1;
  DeviceBuffer<int32_t> group(512), offsets(std::vector<int32_t>{0, 128, 128, 256, 384}),
      sizes(std::vector<int32_t>{128, 0, 128, 128});
  group_of_rows(group.get(), offsets.get(), nullptr, 4, 512, nullptr);
  EXPECT_EQ(group.download(), expected);
  group_of_rows_from_sizes(group.get(), sizes.get(), 4, 512, nullptr);
  EXPECT_EQ(group.download(), expected);
}

TEST(CudaPermuteIndices, UnalignedOutput) {
  DT_SKIP_WITHOUT_GPU();
  DeviceBuffer<int32_t> out(12), counts(std::vector<int32_t>{1, 2, 2, 0}), size(2), offset(3);
  permute_indices(out.get() + 1, size.get(), offset.get(), counts.get(), {2, 2, 4, 8}, nullptr);
  EXPECT_EQ(out.download(), (std::vector<int32_t>{-1, 0, 3, 4, -1, 1, 2, -1, -1, -1, -1, -1}));
}

TEST(CudaPermuteIndices, SaysWhichSizeIsOutOfRange) {
  try {
    group_of_rows(nullptr, nullptr, nullptr, kMaxSegments + 1, 1, nullptr);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "group_of_rows: groups = 8193, must be 0 to 8192");
  }
}

}  // namespace
}  // namespace deeptitan::cuda
