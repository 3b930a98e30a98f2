// Experts' products by each strategy that can be asked for, through the op, against plain sums in double of what the
// strategy's operands hold; and a weight that is stored in e4m3, taken as it is.

#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/device_choice.h"
#include "core/transfer.h"
#include "kernels/reference/quantization.h"
#include "ops/linear.h"
#include "support/compare.h"
#include "support/expect_error.h"
#include "support/gpu.h"

// G groups, N outputs, K inputs.

namespace deeptitan {
namespace {

using testing::random_normal;
using testing::relative_error;
using Strategy = GroupedGemmStrategy;

constexpr int64_t kGroups = 5;
constexpr int64_t kOutputs = 272;  // a matrix of 128 rows, then one of 144: blocks of fp8 end where the second begins
constexpr int64_t kFirstPiece = 128;
constexpr int64_t kInputs = 400;

struct Groups {
  std::vector<int32_t> offsets, sizes;
  int64_t rows;
};
const Groups kBulk = {{0, 0, 8, 138, 203, 204}, {0, 3, 130, 65, 1}, 210};  // gaps at 3 to 7, and behind the last
const Groups kDecoding = {{0, 1, 1, 4, 4, 6}, {1, 0, 3, 0, 2}, 6};

int64_t blocks(int64_t extent) {
  return (extent + 127) / 128;
}

PreparedWeight weight_of(int64_t groups, int64_t outputs, int64_t inputs, Strategy strategy) {
  PreparedWeight weight;
  weight.groups = groups;
  weight.outputs = outputs;
  weight.inputs = inputs;
  weight.activations = DType::kBF16;
  weight.strategy = strategy;
  return weight;
}

class ExpertProducts : public ::testing::TestWithParam<Strategy> {
 protected:
  void SetUp() override {
    DT_TAKE_GPU(ctx_.device);
    use_device(ctx_.device);
    ctx_.compute = Stream(ctx_.device);
    const std::vector<Strategy> available = expert_strategies(ctx_.device);
    if (std::find(available.begin(), available.end(), GetParam()) == available.end()) {
      GTEST_SKIP() << "cuda has only " << grouped_gemm_strategy_names(available);
    }
    // Columns of blocks of very different size: a scale that is another block's would show.
    for (int64_t i = 0; i < std::ssize(w_); ++i) w_[i] *= static_cast<float>(1 << 2 * (i % kInputs / 128));
  }

  // What the strategy makes of the weight, [G, N, K] and of x [rows, K]: the values that its operands stand for.
  std::vector<float> held_weight() const {
    const std::vector<bfloat16> narrow = rounded(w_);
    std::vector<float> held(w_.size());
    std::vector<float8_e4m3> q(w_.size());
    std::vector<float> scale(kGroups * kOutputs * blocks(kInputs));
    if (GetParam() == Strategy::kFp8Blockwise) {
      cpu::quantize_blocks(q.data(), scale.data(), narrow.data(), kGroups, kOutputs, kInputs, ScaleKind::kFloat);
      cpu::dequantize_blocks(held.data(), q.data(), scale.data(), kGroups, kOutputs, kInputs);
    } else if (GetParam() == Strategy::kFp8Rowwise) {
      cpu::quantize_whole_rows(q.data(), scale.data(), narrow.data(), kGroups * kOutputs, kInputs, ScaleKind::kFloat);
      for (size_t i = 0; i < q.size(); ++i) held[i] = to_float(q[i]) * scale[i / kInputs];
    } else {
      for (size_t i = 0; i < narrow.size(); ++i) held[i] = to_float(narrow[i]);
    }
    return held;
  }
  std::vector<float> held_rows(const std::vector<bfloat16>& x, int64_t rows) const {
    std::vector<float> held(x.size());
    std::vector<float8_e4m3> q(x.size());
    std::vector<float> scale(rows * blocks(kInputs));
    if (GetParam() == Strategy::kFp8Blockwise) {
      cpu::quantize_rows(q.data(), scale.data(), x.data(), rows, kInputs, {});
      cpu::dequantize_rows(held.data(), q.data(), scale.data(), rows, kInputs, ScaleLayout::kRowMajor);
    } else if (GetParam() == Strategy::kFp8Rowwise) {
      cpu::quantize_whole_rows(q.data(), scale.data(), x.data(), rows, kInputs, ScaleKind::kFloat);
      for (size_t i = 0; i < q.size(); ++i) held[i] = to_float(q[i]) * scale[i / kInputs];
    } else {
      for (size_t i = 0; i < x.size(); ++i) held[i] = to_float(x[i]);
    }
    return held;
  }
  static std::vector<bfloat16> rounded(const std::vector<float>& values) {
    std::vector<bfloat16> narrow;
    for (const float v : values) narrow.push_back(to_bfloat16(v));
    return narrow;
  }

  // Plans, fills by `prepare` and multiplies rows x in these groups; out has `spare` more columns.
  template <typename Prepare>
  std::vector<bfloat16> run(const Groups& groups, const std::vector<bfloat16>& x, const Prepare& prepare,
                            int64_t spare = 0) {
    Arena tensors("tensors", ctx_.device), prepared("prepared", ctx_.device), workspace("workspace", ctx_.device);
    ctx_.workspace = &workspace;
    PreparedWeight weight = weight_of(kGroups, kOutputs, kInputs, GetParam());
    Tensor out;
    for (const bool planning : {true, false}) {
      ctx_.planning = planning;
      plan_prepared_weight(weight, prepared);
      out = tensors.take(DType::kBF16, {groups.rows, kOutputs + spare});
      const Tensor in = tensors.take(DType::kBF16, {groups.rows, kInputs});
      const RowGroups row_groups{.offsets = tensors.take(DType::kI32, {kGroups + 1}),
                                 .sizes = tensors.take(DType::kI32, {kGroups}),
                                 .capacity = groups.rows,
                                 .alignment = 1};
      if (planning) {
        plan_preparing(ctx_, weight);
      } else {
        prepare(weight);
        copy_tensor(in, Tensor(const_cast<bfloat16*>(x.data()), DType::kBF16, {groups.rows, kInputs}));
        upload<int32_t>(row_groups.offsets, groups.offsets), upload<int32_t>(row_groups.sizes, groups.sizes);
      }
      grouped_linear(ctx_, out.columns(0, kOutputs), in, weight, row_groups);
      if (planning) tensors.allocate(), prepared.allocate(), workspace.allocate();
    }
    ctx_.compute.synchronize();
    std::vector<bfloat16> all(out.numel()), found;
    copy_tensor(Tensor(all.data(), DType::kBF16, {out.numel()}), out);
    for (int64_t g = 0; g < kGroups; ++g) {
      for (int64_t r = groups.offsets[g]; r < groups.offsets[g] + groups.sizes[g]; ++r) {
        const auto row = all.begin() + r * (kOutputs + spare);
        found.insert(found.end(), row, row + kOutputs);
      }
    }
    return found;
  }

  void prepare(PreparedWeight& weight, bool as_bf16) {
    std::vector<bfloat16> narrow = rounded(w_);
    std::vector<Tensor> pieces;
    for (int64_t g = 0; g < kGroups; ++g) {
      for (const auto& [first, rows] :
           {std::pair<int64_t, int64_t>{0, kFirstPiece}, {kFirstPiece, kOutputs - kFirstPiece}}) {
        const int64_t element = (g * kOutputs + first) * kInputs;
        void* data = as_bf16 ? static_cast<void*>(narrow.data() + element) : w_.data() + element;
        pieces.emplace_back(data, as_bf16 ? DType::kBF16 : DType::kF32, Tensor::Shape{rows, kInputs});
      }
    }
    prepare_weight(ctx_, weight, 0, std::span(pieces).first(4));
    prepare_weight(ctx_, weight, 2, std::span(pieces).subspan(4));
  }

  std::vector<double> expected(const Groups& groups, const std::vector<float>& x, const std::vector<float>& w) const {
    std::vector<double> sums;
    for (int64_t g = 0; g < kGroups; ++g) {
      for (int64_t r = groups.offsets[g]; r < groups.offsets[g] + groups.sizes[g]; ++r) {
        for (int64_t n = 0; n < kOutputs; ++n) {
          double sum = 0;
          for (int64_t k = 0; k < kInputs; ++k) {
            sum += static_cast<double>(x[r * kInputs + k]) * w[(g * kOutputs + n) * kInputs + k];
          }
          sums.push_back(sum);
        }
      }
    }
    return sums;
  }

  ExecutionContext ctx_;
  std::vector<float> w_ = random_normal<float>(kGroups * kOutputs * kInputs, 1);
};

TEST_P(ExpertProducts, AreThoseOfWhatTheOperandsHold) {
  for (const Groups* groups : {&kBulk, &kDecoding}) {
    const std::vector<bfloat16> x = random_normal<bfloat16>(groups->rows * kInputs, 2);
    const std::vector<double> wanted = expected(*groups, held_rows(x, groups->rows), held_weight());
    for (const bool as_bf16 : {false, true}) {
      const auto fill = [&](PreparedWeight& weight) { prepare(weight, as_bf16); };
      // As in grouped_gemm_test.cpp: the results' rounding to bf16, and the few bits that sums of e4m3 keep.
      EXPECT_LT(relative_error(run(*groups, x, fill), wanted), 3e-3) << groups->rows << " rows";
      EXPECT_LT(relative_error(run(*groups, x, fill, 16), wanted), 3e-3) << groups->rows << " rows, wider";
    }
  }
}

TEST_P(ExpertProducts, TakeAStoredWeightAsItIs) {
  if (GetParam() != Strategy::kFp8Blockwise) GTEST_SKIP() << "stored with scales of blocks";
  // Scales that quantising would not choose: a quarter of what the range allows.
  std::vector<float8_e4m3> q(w_.size());
  std::vector<float> scale(kGroups * blocks(kOutputs) * blocks(kInputs)), held(w_.size());
  cpu::quantize_blocks(q.data(), scale.data(), w_.data(), kGroups, kOutputs, kInputs, ScaleKind::kFloat);
  for (float8_e4m3& element : q) element = to_float8_e4m3(to_float(element) / 4);
  cpu::dequantize_blocks(held.data(), q.data(), scale.data(), kGroups, kOutputs, kInputs);
  const auto matrix = [&](int64_t g, int64_t first, int64_t rows) {
    return BlockQuantized{Tensor(q.data() + (g * kOutputs + first) * kInputs, DType::kF8E4M3, {rows, kInputs}),
                          Tensor(scale.data() + (g * blocks(kOutputs) + first / 128) * blocks(kInputs), DType::kF32,
                                 {blocks(rows), blocks(kInputs)})};
  };
  const std::vector<bfloat16> x = random_normal<bfloat16>(kBulk.rows * kInputs, 2);
  const std::vector<bfloat16> found = run(kBulk, x, [&](PreparedWeight& weight) {
    for (int64_t g = 0; g < kGroups; ++g) {
      const std::vector<BlockQuantized> group = {matrix(g, 0, kFirstPiece),
                                                 matrix(g, kFirstPiece, kOutputs - kFirstPiece)};
      EXPECT_TRUE(takes_as_stored(weight, group));
      EXPECT_FALSE(takes_as_stored(weight, std::vector{group[1], group[0]})) << "blocks that begin inside a matrix";
      EXPECT_FALSE(takes_as_stored(weight, std::vector{group[0]})) << "rows are missing";
      prepare_weight_as_stored(ctx_, weight, g, group);
    }
  });
  EXPECT_LT(relative_error(found, expected(kBulk, held_rows(x, kBulk.rows), held)), 3e-3);
}

INSTANTIATE_TEST_SUITE_P(AllStrategies, ExpertProducts,
                         ::testing::Values(Strategy::kLoop, Strategy::kBf16, Strategy::kFp8Rowwise,
                                           Strategy::kFp8Blockwise),
                         [](const auto& parameter) {
                           return std::string(grouped_gemm_strategy_name(parameter.param));
                         });

TEST(ExpertProduct, AStrategyThatIsNotThereNamesThoseThatAre) {
  Arena arena("prepared");
  PreparedWeight weight = weight_of(2, 32, 32, Strategy::kFp8Blockwise);
  expect_error([&] { plan_prepared_weight(weight, arena); }, ErrorKind::kUsage,
               "experts' products by fp8_blockwise cannot run on the CPU; use auto");
}

TEST_P(ExpertProducts, SayWhatTheyNeed) {
  Arena arena("prepared", ctx_.device);
  const std::string name(grouped_gemm_strategy_name(GetParam()));
  PreparedWeight weight = weight_of(2, 32, 20, GetParam());
  const bool fp8 = GetParam() == Strategy::kFp8Blockwise || GetParam() == Strategy::kFp8Rowwise;
  expect_error([&] { plan_prepared_weight(weight, arena); }, ErrorKind::kUsage,
               "experts' products by " + name + " need widths that are multiples of " + (fp8 ? "16" : "8") +
                   ", and the model's weights are [32, 20]; use auto");
  weight.inputs = 32;
  weight.activations = DType::kF32;
  expect_error(
      [&] { plan_prepared_weight(weight, arena); }, ErrorKind::kUsage,
      "experts' products by " + name + " take activations in bf16, not f32; use dtype bf16, or auto for the experts");
}

}  // namespace
}  // namespace deeptitan
