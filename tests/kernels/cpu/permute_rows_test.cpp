#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "kernels/cpu/permute/permute.h"
#include "support/compare.h"

namespace deeptitan::cpu {
namespace {

using deeptitan::testing::random_normal;
using deeptitan::testing::rounded;

struct Sorted {
  std::vector<int32_t> row_of_slot, slot_of_row, group_offset;
  int top_k;

  RowMap map() const {
    return {row_of_slot.data(), slot_of_row.data(), static_cast<int64_t>(row_of_slot.size()) / top_k,
            static_cast<int64_t>(slot_of_row.size()), top_k};
  }
};

Sorted sort_random_slots(int64_t tokens, int experts, int top_k, int alignment, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> index(tokens * top_k), counts(experts, 0);
  for (int32_t& e : index) ++counts[e = static_cast<int32_t>(random() % experts)];
  const int64_t rows = max_sorted_rows(tokens * top_k, experts, alignment) + 3;
  Sorted sorted{std::vector<int32_t>(tokens * top_k), std::vector<int32_t>(rows), std::vector<int32_t>(experts + 1),
                top_k};
  sort_slots(sorted.row_of_slot.data(), sorted.slot_of_row.data(), sorted.group_offset.data(), index.data(),
             counts.data(), {tokens * top_k, experts, alignment, rows});
  return sorted;
}

template <typename T>
class PermuteRows : public ::testing::Test {
 public:
  // bf16 rounds each result to 8 bits; float sums of K or D products stay within a few ulp of their largest term.
  static constexpr double kTolerance = std::is_same_v<T, float> ? 2e-6 : 5e-3;
};
using ElementTypes = ::testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(PermuteRows, ElementTypes);

TYPED_TEST(PermuteRows, ForwardAndBackwardMatchTheReference) {
  using T = TypeParam;
  for (const int64_t tokens : {0, 1, 50}) {
    for (const int64_t hidden : {1, 7, 256, 1031}) {
      for (const int top_k : {1, 6}) {
        const Sorted sorted = sort_random_slots(tokens, 5, top_k, 4, 1);
        const auto rows = static_cast<int64_t>(sorted.slot_of_row.size());
        const std::vector<T> x = random_normal<T>(tokens * hidden, 2);
        std::vector<T> permuted = random_normal<T>(rows * hidden, 3);
        permute_rows(permuted.data(), x.data(), sorted.map(), hidden);
        for (int64_t r = 0; r < rows; ++r) {
          const int32_t slot = sorted.slot_of_row[r];
          for (int64_t d = 0; d < hidden; ++d) {
            const float expected = slot < 0 ? 0.0f : to_float(x[slot / top_k * hidden + d]);
            ASSERT_EQ(to_float(permuted[r * hidden + d]), expected);
          }
        }

        const std::vector<T> y = random_normal<T>(rows * hidden, 4);
        const std::vector<float> weight = random_normal<float>(tokens * top_k, 5);
        const std::vector<T> addend = random_normal<T>(tokens * hidden, 6);
        const std::vector<T> d_out = random_normal<T>(tokens * hidden, 7);
        for (const bool weighted : {false, true}) {
          const float* weights = weighted ? weight.data() : nullptr;
          std::vector<T> out(tokens * hidden), out_plus(addend);
          unpermute_rows(out.data(), y.data(), weights, nullptr, nullptr, sorted.map(), hidden);
          unpermute_rows(out_plus.data(), y.data(), weights, out_plus.data(), nullptr, sorted.map(), hidden);
          std::vector<T> out_onto(tokens * hidden);
          unpermute_rows(out_onto.data(), y.data(), weights, addend.data(), d_out.data(), sorted.map(), hidden);
          for (int64_t i = 0; i < tokens * hidden; ++i) {  // the sum is rounded, and once more with the residual
            ASSERT_EQ(to_float(out_onto[i]), to_float(rounded<T>(to_float(out_plus[i]) + to_float(d_out[i]))));
          }
          std::vector<T> d_y(rows * hidden, rounded<T>(NAN));
          std::vector<float> d_weight(tokens * top_k, NAN);
          unpermute_rows_backward(d_y.data(), d_weight.data(), d_out.data(), y.data(), weights, sorted.map(), hidden);
          for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t d = 0; d < hidden; ++d) {
              double sum = 0;
              for (int64_t slot = t * top_k; slot < (t + 1) * top_k; ++slot) {
                const double w = weighted ? weight[slot] : 1.0;
                sum += w * to_float(y[sorted.row_of_slot[slot] * hidden + d]);
              }
              ASSERT_NEAR(to_float(out[t * hidden + d]), sum, this->kTolerance * (1 + std::abs(sum)));
              sum += to_float(addend[t * hidden + d]);
              ASSERT_NEAR(to_float(out_plus[t * hidden + d]), sum, this->kTolerance * (1 + std::abs(sum)));
            }
          }
          for (int64_t r = 0; r < rows; ++r) {
            const int32_t slot = sorted.slot_of_row[r];
            double dot = 0;
            for (int64_t d = 0; d < hidden; ++d) {
              const double gradient = slot < 0 ? 0.0 : to_float(d_out[slot / top_k * hidden + d]);
              const double w = slot < 0 || !weighted ? 1.0 : weight[slot];
              ASSERT_NEAR(to_float(d_y[r * hidden + d]), w * gradient, this->kTolerance * (1 + std::abs(w * gradient)));
              dot += gradient * to_float(y[r * hidden + d]);
            }
            if (slot < 0) continue;
            ASSERT_NEAR(d_weight[slot], dot, 2e-6 * (1 + static_cast<double>(hidden) / 10));
          }
        }
      }
    }
  }
}

TYPED_TEST(PermuteRows, SlotsWithoutARowAddNothing) {
  using T = TypeParam;
  const std::vector<T> y{rounded<T>(3.0f), rounded<T>(NAN)};
  const std::vector<int32_t> row_of_slot{-1, 0};
  std::vector<T> out(1);
  unpermute_rows(out.data(), y.data(), nullptr, nullptr, nullptr, RowMap{row_of_slot.data(), nullptr, 1, 1, 2}, 1);
  EXPECT_EQ(to_float(out[0]), 3.0f);
}

TYPED_TEST(PermuteRows, BackwardMayOverwriteItsInput) {
  using T = TypeParam;
  const Sorted sorted = sort_random_slots(9, 3, 2, 4, 1);
  const auto rows = static_cast<int64_t>(sorted.slot_of_row.size());
  std::vector<T> y = random_normal<T>(rows * 33, 4);
  const std::vector<T> d_out = random_normal<T>(9 * 33, 7);
  std::vector<T> d_y(y.size());
  std::vector<float> d_weight(18), d_weight_in_place(18);
  unpermute_rows_backward(d_y.data(), d_weight.data(), d_out.data(), y.data(), nullptr, sorted.map(), 33);
  unpermute_rows_backward(y.data(), d_weight_in_place.data(), d_out.data(), y.data(), nullptr, sorted.map(), 33);
  EXPECT_EQ(d_weight, d_weight_in_place);
  EXPECT_EQ(0, memcmp(y.data(), d_y.data(), y.size() * sizeof(T)));
}

TYPED_TEST(PermuteRows, DoesNotDependOnTheNumberOfThreads) {
  using T = TypeParam;
  const Sorted sorted = sort_random_slots(200, 7, 3, 8, 1);
  const auto rows = static_cast<int64_t>(sorted.slot_of_row.size());
  const std::vector<T> y = random_normal<T>(rows * 300, 4);
  const std::vector<float> weight = random_normal<float>(600, 5);
  const int threads = omp_get_max_threads();
  std::vector<std::vector<T>> outs;
  for (const int count : {1, 4}) {
    omp_set_num_threads(count);
    outs.emplace_back(200 * 300);
    unpermute_rows(outs.back().data(), y.data(), weight.data(), nullptr, nullptr, sorted.map(), 300);
  }
  omp_set_num_threads(threads);
  EXPECT_EQ(0, memcmp(outs[0].data(), outs[1].data(), outs[0].size() * sizeof(T)));
}

}  // namespace
}  // namespace deeptitan::cpu
