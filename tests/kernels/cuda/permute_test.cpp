#include "kernels/cuda/permute/permute.h"

#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "kernels/cpu/permute/permute.h"
#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/test_sizes.h"
#include "support/compare.h"

namespace deeptitan::cuda {
namespace {

using deeptitan::testing::random_normal;
using deeptitan::testing::rounded;

enum class Choices { kRandom, kAllOne, kEvenExpertsOnly };

struct Slots {
  std::vector<int32_t> expert_index, counts;
  SlotSortShape shape;
};

Slots random_slots(int64_t slots, int experts, int alignment, Choices choices, unsigned seed) {
  std::mt19937 random(seed);
  Slots out;
  out.counts.assign(experts, 0);
  for (int64_t slot = 0; slot < slots; ++slot) {
    int32_t e = choices == Choices::kAllOne ? experts - 1 : static_cast<int32_t>(random() % experts);
    if (choices == Choices::kEvenExpertsOnly) e -= e % 2;
    out.expert_index.push_back(e);
    ++out.counts[e];
  }
  out.shape = {slots, experts, alignment, cpu::max_sorted_rows(slots, experts, alignment) + 7};
  return out;
}

/// The CPU's sort of the slots, and the same map on the device.
struct Sorted {
  std::vector<int32_t> row_of_slot, slot_of_row, group_offset;
  DeviceBuffer<int32_t> device_row_of_slot, device_slot_of_row;
  RowMap host, device;

  Sorted(const Slots& slots, int top_k)
      : row_of_slot(slots.shape.slots),
        slot_of_row(slots.shape.row_capacity),
        group_offset(slots.shape.experts + 1),
        device_row_of_slot(row_of_slot.size()),
        device_slot_of_row(slot_of_row.size()) {
    cpu::sort_slots(row_of_slot.data(), slot_of_row.data(), group_offset.data(), slots.expert_index.data(),
                    slots.counts.data(), slots.shape);
    device_row_of_slot.upload(row_of_slot);
    device_slot_of_row.upload(slot_of_row);
    const int64_t tokens = slots.shape.slots / top_k;
    host = {row_of_slot.data(), slot_of_row.data(), tokens, slots.shape.row_capacity, top_k};
    device = {device_row_of_slot.get(), device_slot_of_row.get(), tokens, slots.shape.row_capacity, top_k};
  }
};

TEST(CudaSortSlots, EqualsTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  unsigned seed = 0;
  for (const int experts : {1, 3, 64, 257, 384}) {
    for (const int64_t slots : {0, 1, 31, 2048, 2049, 70000}) {
      if (only_small_sizes() && slots > 2049) continue;
      for (const int alignment : {1, 8, 128}) {
        for (const Choices choices : {Choices::kRandom, Choices::kAllOne, Choices::kEvenExpertsOnly}) {
          const Slots s = random_slots(slots, experts, alignment, choices, ++seed);
          const Sorted expected(s, 1);
          DeviceBuffer<int32_t> expert_index(s.expert_index), counts(s.counts), row_of_slot(slots),
              slot_of_row(s.shape.row_capacity), group_offset(experts + 1);
          DeviceBuffer<char> workspace(sort_slots_workspace_bytes(s.shape));
          sort_slots(row_of_slot.get(), slot_of_row.get(), group_offset.get(), expert_index.get(), counts.get(),
                     s.shape, workspace.get(), nullptr);
          ASSERT_EQ(group_offset.download(), expected.group_offset);
          ASSERT_EQ(row_of_slot.download(), expected.row_of_slot) << experts << " experts, " << slots << " slots";
          ASSERT_EQ(slot_of_row.download(), expected.slot_of_row);
        }
      }
    }
  }
}

TEST(CudaSortSlots, WhatDoesNotFitHasNoRowAtAll) {
  DT_SKIP_WITHOUT_GPU();
  for (const int64_t slots : {31, 70000}) {
    for (const bool fits : {true, false}) {
      Slots s = random_slots(slots, 64, 8, Choices::kRandom, 3);
      int64_t rows = 0;
      for (const int32_t count : s.counts) rows += (count + 7) / 8 * 8;
      s.shape.row_capacity = fits ? rows : rows - 8;
      std::vector<int32_t> row_of_slot(slots), slot_of_row(s.shape.row_capacity), offset(65), size(64);
      int32_t overflow = 0;
      cpu::sort_slots_that_fit(row_of_slot.data(), slot_of_row.data(), offset.data(), size.data(), &overflow,
                               s.expert_index.data(), s.counts.data(), s.shape);
      DeviceBuffer<int32_t> expert_index(s.expert_index), counts(s.counts), device_row(slots),
          device_slot(s.shape.row_capacity), device_offset(65), device_size(64),
          device_overflow(std::vector<int32_t>{0});
      DeviceBuffer<char> workspace(sort_slots_workspace_bytes(s.shape));
      sort_slots_that_fit(device_row.get(), device_slot.get(), device_offset.get(), device_size.get(),
                          device_overflow.get(), expert_index.get(), counts.get(), s.shape, workspace.get(), nullptr);
      EXPECT_EQ(overflow, fits ? 0 : 1);
      EXPECT_EQ(device_overflow.download(), std::vector<int32_t>{overflow});
      EXPECT_EQ(device_offset.download(), offset);
      EXPECT_EQ(device_size.download(), size);
      EXPECT_EQ(device_row.download(), row_of_slot);
      EXPECT_EQ(device_slot.download(), slot_of_row);
    }
  }
}

TEST(CudaSortReceivedRows, EqualsTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  std::mt19937 random(5);
  for (const int64_t ranks : {1, 3, 8}) {
    for (const int64_t experts : {1, 5, 64}) {
      for (const bool fits : {true, false}) {
        std::vector<int32_t> counts(static_cast<size_t>(ranks * experts));
        int64_t came = 0;
        for (int32_t& count : counts) came += count = random() % 4 == 0 ? 0 : static_cast<int32_t>(random() % 700);
        const int64_t rows = fits ? came + 3 : std::max<int64_t>(0, came - 1);
        std::vector<int32_t> row_of_slot(rows), slot_of_row(rows), offset(experts + 1), sizes(experts);
        int32_t overflow = 0;
        const ReceivedRowsShape shape{.ranks = ranks, .experts = experts, .rows = rows};
        cpu::sort_received_rows(row_of_slot.data(), slot_of_row.data(), offset.data(), sizes.data(), &overflow,
                                counts.data(), shape);
        DeviceBuffer<int32_t> device_counts(counts), device_row(rows), device_slot(rows), device_offset(experts + 1),
            device_sizes(experts), device_overflow(std::vector<int32_t>{0});
        sort_received_rows(device_row.get(), device_slot.get(), device_offset.get(), device_sizes.get(),
                           device_overflow.get(), device_counts.get(), shape, nullptr);
        EXPECT_EQ(device_overflow.download(), std::vector<int32_t>{overflow});
        EXPECT_EQ(device_offset.download(), offset);
        EXPECT_EQ(device_sizes.download(), sizes);
        EXPECT_EQ(device_row.download(), row_of_slot);
        EXPECT_EQ(device_slot.download(), slot_of_row);
      }
    }
  }
}

TEST(CudaSortSlots, RefusesABufferThatMightOverflow) {
  try {
    sort_slots(nullptr, nullptr, nullptr, nullptr, nullptr, {100, 4, 8, 120}, nullptr, nullptr);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "sort_slots: a capacity of 120 rows, 100 slots of 4 experts may need 128");
  }
}

template <typename T>
class CudaPermuteRows : public ::testing::Test {};
using ElementTypes = ::testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(CudaPermuteRows, ElementTypes);

// Widths: one chunk of 8, ragged, 2 to 4 passes of a block, one element, and rows that do not start at 16 bytes.
TYPED_TEST(CudaPermuteRows, EqualsTheCpuBitForBit) {
  DT_SKIP_WITHOUT_GPU();
  using T = TypeParam;
  for (const int64_t hidden : {8, 7168, 1032, 1031, 1}) {
    for (const int top_k : {1, 6, 9}) {
      for (const int64_t tokens : {0, 1, 50}) {
        const Slots slots = random_slots(tokens * top_k, 5, 16, Choices::kEvenExpertsOnly, 3);
        Sorted sorted(slots, top_k);
        sorted.host.tokens = sorted.device.tokens = tokens;
        const int64_t rows = sorted.host.rows;
        const std::vector<T> x = random_normal<T>(tokens * hidden, 2);
        const std::vector<T> y = random_normal<T>(rows * hidden, 4);
        const std::vector<T> addend = random_normal<T>(tokens * hidden, 6),
                             residual = random_normal<T>(tokens * hidden, 8);
        const std::vector<float> weight = random_normal<float>(tokens * top_k, 5);
        DeviceBuffer<T> device_x(x), device_y(y), device_addend(addend), device_residual(residual),
            out_rows(rows * hidden), out_tokens(tokens * hidden);
        DeviceBuffer<float> device_weight(weight), device_d_weight(tokens * top_k);

        std::vector<T> expected_rows(rows * hidden), expected_tokens(tokens * hidden);
        cpu::permute_rows(expected_rows.data(), x.data(), sorted.host, hidden);
        permute_rows(out_rows.get(), device_x.get(), sorted.device, hidden, nullptr);
        ASSERT_TRUE(same_bytes(out_rows.download(), expected_rows)) << hidden << " wide, top " << top_k;

        for (const bool weighted : {false, true}) {
          const float* w = weighted ? weight.data() : nullptr;
          const float* device_w = weighted ? device_weight.get() : nullptr;
          cpu::unpermute_rows(expected_tokens.data(), y.data(), w, nullptr, nullptr, sorted.host, hidden);
          unpermute_rows(out_tokens.get(), device_y.get(), device_w, nullptr, nullptr, sorted.device, hidden, nullptr);
          ASSERT_TRUE(same_bytes(out_tokens.download(), expected_tokens));
          cpu::unpermute_rows(expected_tokens.data(), y.data(), w, addend.data(), nullptr, sorted.host, hidden);
          unpermute_rows(out_tokens.get(), device_y.get(), device_w, device_addend.get(), nullptr, sorted.device,
                         hidden, nullptr);
          ASSERT_TRUE(same_bytes(out_tokens.download(), expected_tokens));
          cpu::unpermute_rows(expected_tokens.data(), y.data(), w, addend.data(), residual.data(), sorted.host, hidden);
          unpermute_rows(out_tokens.get(), device_y.get(), device_w, device_addend.get(), device_residual.get(),
                         sorted.device, hidden, nullptr);
          ASSERT_TRUE(same_bytes(out_tokens.download(), expected_tokens));

          std::vector<float> d_weight(tokens * top_k);
          cpu::unpermute_rows_backward(expected_rows.data(), d_weight.data(), x.data(), y.data(), w, sorted.host,
                                       hidden);
          unpermute_rows_backward(out_rows.get(), device_d_weight.get(), device_x.get(), device_y.get(), device_w,
                                  sorted.device, hidden, nullptr);
          ASSERT_EQ(device_d_weight.download(), d_weight);
          ASSERT_TRUE(same_bytes(out_rows.download(), expected_rows));
          unpermute_rows_backward(out_rows.get(), nullptr, device_x.get(), static_cast<const T*>(nullptr), device_w,
                                  sorted.device, hidden, nullptr);
          ASSERT_TRUE(same_bytes(out_rows.download(), expected_rows));
        }
      }
    }
  }
}

TYPED_TEST(CudaPermuteRows, SlotsWithoutARowAddNothingAndHaveNoGradient) {
  DT_SKIP_WITHOUT_GPU();
  using T = TypeParam;
  DeviceBuffer<T> y(std::vector<T>(16, rounded<T>(3.0f))), out(8), d_y(16);
  DeviceBuffer<int32_t> row_of_slot(std::vector<int32_t>{-1, 1}), slot_of_row(std::vector<int32_t>{-1, 1});
  DeviceBuffer<float> d_weight(2);
  const RowMap map{row_of_slot.get(), slot_of_row.get(), 1, 2, 2};
  unpermute_rows(out.get(), y.get(), nullptr, nullptr, nullptr, map, 8, nullptr);
  for (const T value : out.download()) EXPECT_EQ(to_float(value), 3.0f);
  unpermute_rows_backward(d_y.get(), d_weight.get(), out.get(), y.get(), nullptr, map, 8, nullptr);
  EXPECT_EQ(d_weight.download(), (std::vector<float>{0.0f, 72.0f}));
  const std::vector<T> d_rows = d_y.download();
  for (int i = 0; i < 16; ++i) EXPECT_EQ(to_float(d_rows[i]), i < 8 ? 0.0f : 3.0f);
}

// Rows of whole 16-byte words and others; groups that are empty, in the midst, or all there is.
TEST(CudaPermuteRows, ClearsRowsOutsideOfGroups) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int32_t kRows = 41;
  for (const int64_t hidden : {1, 8, 33, 2048}) {
    for (const auto& [first, last] : std::vector<std::pair<int32_t, int32_t>>{{0, 0}, {0, 41}, {7, 30}, {41, 41}}) {
      const std::vector<float> values = random_normal<float>(kRows * hidden, 5);
      std::vector<bfloat16> expected(values.size());
      for (size_t i = 0; i < values.size(); ++i) expected[i] = to_bfloat16(values[i]);
      DeviceBuffer<bfloat16> y(expected);
      DeviceBuffer<int32_t> offsets(std::vector<int32_t>{first, last});
      for (int64_t i = 0; i < std::ssize(expected); ++i) {
        if (i / hidden < first || i / hidden >= last) expected[i] = bfloat16{};
      }
      clear_rows_outside(y.get(), offsets.get(), offsets.get() + 1, kRows, hidden * 2, nullptr);
      EXPECT_TRUE(same_bytes(y.download(), expected)) << hidden << ", rows " << first << " to " << last;
    }
  }
}

// 2^31 elements and more: an offset in 32 bits would wrap. The last row and the one past 2^31 are compared.
TEST(CudaPermuteRowsLarge, OffsetsPass32Bits) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kHidden = 7168;
  constexpr int64_t kTokens = 37500;
  constexpr int kTopK = 8;
  constexpr int64_t kRows = kTokens * kTopK;
  static_assert(kRows * kHidden > int64_t{1} << 31);
  size_t free_bytes = 0, total_bytes = 0;
  DT_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  if (free_bytes < (size_t{8} << 30)) GTEST_SKIP() << "needs 8 GiB of free device memory, found " << free_bytes;
  std::vector<int32_t> row_of_slot(kRows), slot_of_row(kRows);
  for (int64_t slot = 0; slot < kRows; ++slot) {
    row_of_slot[slot] = static_cast<int32_t>(kRows - 1 - slot);
    slot_of_row[kRows - 1 - slot] = static_cast<int32_t>(slot);
  }
  DeviceBuffer<int32_t> device_row_of_slot(row_of_slot), device_slot_of_row(slot_of_row);
  const RowMap map{device_row_of_slot.get(), device_slot_of_row.get(), kTokens, kRows, kTopK};
  std::vector<bfloat16> x(kTokens * kHidden);
  for (size_t i = 0; i < x.size(); ++i) x[i] = to_bfloat16(static_cast<float>((i * 2654435761u >> 20) % 251) - 125.0f);
  DeviceBuffer<bfloat16> device_x(x), rows(kRows * kHidden), out(kTokens * kHidden);
  permute_rows(rows.get(), device_x.get(), map, kHidden, nullptr);
  for (const int64_t row : {int64_t{0}, (int64_t{1} << 31) / kHidden, kRows - 1}) {
    std::vector<bfloat16> found(kHidden);
    DT_CUDA_CHECK(
        cudaMemcpy(found.data(), rows.get() + row * kHidden, kHidden * sizeof(bfloat16), cudaMemcpyDeviceToHost));
    const auto* token = x.data() + slot_of_row[row] / kTopK * kHidden;
    EXPECT_EQ(0, memcmp(found.data(), token, kHidden * sizeof(bfloat16)));
  }
  // Eight equal rows add up to eight times the token, exactly.
  unpermute_rows(out.get(), rows.get(), nullptr, nullptr, nullptr, map, kHidden, nullptr);
  std::vector<bfloat16> eightfold(x.size());
  for (size_t i = 0; i < x.size(); ++i) eightfold[i] = to_bfloat16(8 * to_float(x[i]));
  EXPECT_TRUE(same_bytes(out.download(), eightfold));
}

}  // namespace
}  // namespace deeptitan::cuda
