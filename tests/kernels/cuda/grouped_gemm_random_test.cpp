// Grouped products over drawn widths, group counts, sizes, gaps and tails. Shapes are too many and too large for a
// whole reference on the host, so some rows of each group are compared, all columns of them: the first, the last, some
// between.

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/random.h"
#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/grouped_gemm/grouped_gemm.h"
#include "kernels/cuda/test_sizes.h"
#include "kernels/grouped_gemm_reference.h"

namespace deeptitan::cuda {
namespace {

using Strategy = GroupedGemmStrategy;

const int kShapes = only_small_sizes() ? 1 : 12;

/// Draws integers for one test case.
class Draw {
 public:
  explicit Draw(uint64_t key) : key_(key) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(random_bits(key_, next_++) % static_cast<uint64_t>(n)); }

 private:
  uint64_t key_;
  uint64_t next_ = 0;
};

struct Case {
  RowGroups groups;
  int n, k;

  std::string describe() const {
    std::string text = "n = " + std::to_string(n) + ", k = " + std::to_string(k) + ", " +
                       std::to_string(groups.sizes.size()) + " groups, " + std::to_string(groups.rows) + " rows, sizes";
    for (size_t g = 0; g < std::min<size_t>(groups.sizes.size(), 40); ++g) {
      text += " " + std::to_string(groups.sizes[g]);
    }
    return text;
  }
};

/// Sizes are mostly around what tiles and slices hold. Two in three cases have gaps, all have rows behind the last
/// group.
Case make_case(int n, int k, int groups, uint64_t key) {
  constexpr int32_t kEdges[] = {0, 0, 1, 2, 63, 64, 65, 127, 129, 300};
  Draw draw(key);
  std::vector<int32_t> sizes(groups);
  for (int32_t& size : sizes) {
    size = draw.below(5) < 4 ? kEdges[draw.below(10)] : static_cast<int32_t>(draw.below(700));
  }
  constexpr int kAlignments[] = {1, 8, 128};
  const int alignment = kAlignments[draw.below(3)];
  return {make_groups(sizes, alignment, static_cast<int>(draw.below(9)), 1 + static_cast<int>(draw.below(200))), n, k};
}

/// A width of up to `most` with a tail in most tiles.
int draw_width(Draw& draw, int most) {
  return 16 * (1 + static_cast<int>(draw.below(most / 16)));
}

Case draw_case(uint64_t key) {
  Draw draw(key);
  constexpr int kGroupCounts[] = {1, 3, 5, 16, 33, 64, 100};
  constexpr int64_t kMostWeights = 24'000'000;  // what a test holds in the host's memory
  const int groups = kGroupCounts[draw.below(7)];
  const int n = draw_width(draw, 2400);
  const int k = draw_width(draw, static_cast<int>(std::clamp<int64_t>(kMostWeights / groups / n, 16, 2400)));
  return make_case(n, k, groups, key + 1000);
}

/// Rows to look at of `count` rows: the first, the last and three drawn ones.
std::set<int64_t> some_rows(int64_t count, Draw& draw) {
  if (count == 0) return {};
  std::set<int64_t> rows = {0, count - 1};
  for (int i = 0; i < 3; ++i) rows.insert(draw.below(count));
  return rows;
}

/// Sums squares of differences and of the reference.
struct Difference {
  double squares = 0, norm = 0;
  void add(double value, double reference) {
    squares += (value - reference) * (value - reference);
    norm += reference * reference;
  }
  double relative() const { return norm == 0 ? std::sqrt(squares) : std::sqrt(squares / norm); }
};

class GroupedGemmRandom : public testing::TestWithParam<Strategy> {
 protected:
  void SetUp() override {
    DT_SKIP_WITHOUT_GPU();
    const auto available = available_grouped_gemm_strategies();
    if (std::find(available.begin(), available.end(), GetParam()) == available.end()) {
      GTEST_SKIP() << "strategy " << grouped_gemm_strategy_name(GetParam()) << " needs compute capability 9.0";
    }
  }

  /// Output [rows, height] contracted over `width`; the input gradient's bf16 weights are stored [width, height].
  void check_product(const Case& c, bool forward) {
    const Strategy strategy = GetParam();
    const int height = forward ? c.n : c.k;
    const int width = forward ? c.k : c.n;
    const auto groups = static_cast<int64_t>(c.groups.sizes.size());
    StoredOperand a = store_activations(strategy, random_values(c.groups.rows * width, 11), c.groups.rows, width);
    poison_rows_outside(c.groups, width, &a);
    const bool as_stored = forward || is_fp8(strategy);
    const StoredOperand b = store_weights(strategy, random_values(groups * height * width, 12), groups,
                                          as_stored ? height : width, as_stored ? width : height);
    DeviceBuffer<uint8_t> a_bytes(a.bytes), b_bytes(b.bytes), workspace(grouped_gemm_workspace_bytes(strategy));
    DeviceBuffer<float> a_scales(a.scales), b_scales(b.scales);
    DeviceBuffer<int32_t> offsets(c.groups.offsets), sizes(c.groups.sizes);
    DeviceBuffer<bfloat16> output(c.groups.rows * height);
    const GroupedGemmShape shape{offsets.get(), sizes.get(), static_cast<int>(groups), c.groups.rows, c.n, c.k};
    (forward ? grouped_gemm_forward : grouped_gemm_input_gradient)(
        strategy, output.get(), {a_bytes.get(), is_fp8(strategy) ? a_scales.get() : nullptr},
        {b_bytes.get(), is_fp8(strategy) ? b_scales.get() : nullptr}, shape, {}, workspace.get(), nullptr);
    const std::vector<bfloat16> result = output.download();

    Draw draw(7);
    Difference difference;
    std::vector<bool> inside(c.groups.rows, false);
    for (int64_t g = 0; g < groups; ++g) {
      std::fill_n(inside.begin() + c.groups.offsets[g], c.groups.sizes[g], true);
      const float* weights = b.values.data() + g * height * width;
      for (const int64_t r : some_rows(c.groups.sizes[g], draw)) {
        const int64_t row = c.groups.offsets[g] + r;
        for (int64_t column = 0; column < height; ++column) {
          double sum = 0;
          for (int64_t i = 0; i < width; ++i) {
            sum += static_cast<double>(a.values[row * width + i]) *
                   weights[as_stored ? column * width + i : i * height + column];
          }
          difference.add(to_float(result[row * height + column]), sum);
        }
      }
    }
    EXPECT_LT(difference.relative(), is_fp8(strategy) ? 3e-3 : 2.5e-3);  // as in grouped_gemm_test.cpp
    int64_t touched = 0;
    for (int64_t row = 0; row < c.groups.rows; ++row) {
      for (int64_t i = 0; i < height && !inside[row]; ++i) touched += result[row * height + i].bits != 0xffff;
    }
    EXPECT_EQ(touched, 0) << "elements written outside every group";
  }

  /// Rows of a case on the host and on the device, NaN outside the groups.
  struct GradientRows {
    GradientRows(const Case& of, uint64_t key)
        : groups(of.groups),
          dy(store_bf16(random_values(of.groups.rows * of.n, key))),
          x(store_bf16(random_values(of.groups.rows * of.k, key + 1))),
          dy_bytes(dy.bytes.size()),
          x_bytes(x.bytes.size()) {
      poison_rows_outside(groups, of.n, &dy);
      poison_rows_outside(groups, of.k, &x);
      dy_bytes.upload(dy.bytes);
      x_bytes.upload(x.bytes);
    }
    const bfloat16* left() { return reinterpret_cast<const bfloat16*>(dy_bytes.get()); }
    const bfloat16* right() { return reinterpret_cast<const bfloat16*>(x_bytes.get()); }

    RowGroups groups;
    StoredOperand dy, x;
    DeviceBuffer<uint8_t> dy_bytes, x_bytes;
    DeviceBuffer<int32_t> offsets{groups.offsets}, sizes{groups.sizes};
  };

  /// Of the rows of a case, and behind them those of `behind`, which has as many groups and the same widths.
  void check_weight_gradient(const Case& c, bool accumulate = true, const Case* behind = nullptr) {
    const auto groups = static_cast<int64_t>(c.groups.sizes.size());
    std::vector<std::unique_ptr<GradientRows>> all;
    all.push_back(std::make_unique<GradientRows>(c, 31));
    if (behind != nullptr) all.push_back(std::make_unique<GradientRows>(*behind, 33));
    DeviceBuffer<uint8_t> workspace(grouped_gemm_workspace_bytes(GetParam()));
    DeviceBuffer<float> gradient(groups * c.n * c.k);
    DT_CUDA_CHECK(cudaMemset(gradient.get(), accumulate ? 0 : 0xff, gradient.bytes()));  // NaN, to be overwritten
    if (behind == nullptr) {
      GradientRows& r = *all[0];
      const GroupedGemmShape shape{r.offsets.get(), r.sizes.get(), static_cast<int>(groups), c.groups.rows, c.n, c.k};
      grouped_gemm_weight_gradient(GetParam(), gradient.get(), r.left(), r.right(), shape, {.accumulate = accumulate},
                                   workspace.get(), nullptr);
    } else {
      const auto rows = [&](GradientRows& r) {
        return GroupedGemmRows{r.left(), r.right(), r.offsets.get(), r.sizes.get(), r.groups.rows};
      };
      grouped_gemm_weight_gradient_of_both(gradient.get(), rows(*all[0]), rows(*all[1]), static_cast<int>(groups), c.n,
                                           c.k, {.accumulate = accumulate}, nullptr);
    }
    DT_CUDA_CHECK(cudaDeviceSynchronize());

    Draw draw(8);
    Difference difference;
    std::vector<float> result(c.k);
    std::vector<double> reference(c.k);
    for (int64_t g = 0; g < groups; ++g) {
      for (const int64_t i : some_rows(c.n, draw)) {
        DT_CUDA_CHECK(cudaMemcpy(result.data(), gradient.get() + (g * c.n + i) * c.k, c.k * sizeof(float),
                                 cudaMemcpyDeviceToHost));
        std::fill(reference.begin(), reference.end(), 0.0);
        for (const auto& r : all) {
          for (int64_t t = r->groups.offsets[g]; t < r->groups.offsets[g] + r->groups.sizes[g]; ++t) {
            const double left = r->dy.values[t * c.n + i];
            for (int64_t j = 0; j < c.k; ++j) reference[j] += left * r->x.values[t * c.k + j];
          }
        }
        for (int64_t j = 0; j < c.k; ++j) difference.add(result[j], reference[j]);
      }
    }
    EXPECT_LT(difference.relative(), 1e-5);  // fp32 sums of exact products
  }
};

TEST_P(GroupedGemmRandom, Forward) {
  for (int shape = 0; shape < kShapes; ++shape) {
    const Case c = draw_case(100 + shape);
    SCOPED_TRACE(c.describe());
    check_product(c, true);
  }
}

TEST_P(GroupedGemmRandom, InputGradient) {
  for (int shape = 0; shape < kShapes; ++shape) {
    const Case c = draw_case(200 + shape);
    SCOPED_TRACE(c.describe());
    check_product(c, false);
  }
}

TEST_P(GroupedGemmRandom, WeightGradient) {
  if (is_fp8(GetParam())) GTEST_SKIP() << "no weight gradient in fp8";
  for (int shape = 0; shape < 2 * kShapes; ++shape) {
    const Case c = draw_case(300 + shape);
    SCOPED_TRACE(c.describe());
    check_weight_gradient(c, shape % 3 != 2);
  }
}

TEST_P(GroupedGemmRandom, WeightGradientOfRowsOfTwoBuffers) {
  if (GetParam() != Strategy::kBf16) GTEST_SKIP() << "tensor cores add both up";
  for (int shape = 0; shape < 2 * kShapes; ++shape) {
    const Case c = draw_case(600 + shape);
    Case behind = make_case(c.n, c.k, static_cast<int>(c.groups.sizes.size()), 700 + shape);
    SCOPED_TRACE(c.describe() + "; behind them " + behind.describe());
    check_weight_gradient(c, shape % 3 != 2, &behind);
  }
}

TEST_P(GroupedGemmRandom, WeightGradientInPlaceOfWhatWasThere) {
  if (is_fp8(GetParam())) GTEST_SKIP() << "no weight gradient in fp8";
  for (int shape = 0; shape < kShapes; ++shape) {
    const Case c = draw_case(500 + shape);
    SCOPED_TRACE(c.describe());
    check_weight_gradient(c, /*accumulate=*/false);
  }
}

// The last tile row holds at most 64 rows, which one warpgroup computes while the other goes ahead into the next tile.
TEST_P(GroupedGemmRandom, WeightGradientWhoseLastTileRowIsHalf) {
  if (is_fp8(GetParam())) GTEST_SKIP() << "no weight gradient in fp8";
  struct Widths {
    int n, k, groups;
  };
  for (const auto& [n, k, groups] : {Widths{2192, 1040, 5},
                                     {2192, 1056, 5},
                                     {1040, 128, 100},
                                     {912, 592, 160},
                                     {2192, 352, 33},
                                     {2320, 1008, 5},
                                     {64, 1024, 300},
                                     {3136, 1056, 16}}) {
    if (only_small_sizes() && groups > 5) continue;
    const Case c = make_case(n, k, groups, 400 + groups);
    SCOPED_TRACE(c.describe());
    check_weight_gradient(c);
  }
}

INSTANTIATE_TEST_SUITE_P(AllStrategies, GroupedGemmRandom,
                         testing::Values(Strategy::kLoop, Strategy::kBf16, Strategy::kFp8Rowwise,
                                         Strategy::kFp8Blockwise),
                         [](const auto& parameter) {
                           return std::string(grouped_gemm_strategy_name(parameter.param));
                         });

}  // namespace
}  // namespace deeptitan::cuda
