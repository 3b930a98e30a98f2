#include "ops/weight_format.h"

#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/device_choice.h"
#include "core/transfer.h"
#include "ops/linear.h"
#include "support/compare.h"
#include "support/expect_error.h"
#include "support/gpu.h"

// One test over all formats: each product that the table has, in every use of it, against plain sums in double.
// G groups, N outputs, K inputs, M rows.

namespace deeptitan {

void PrintTo(const WeightProduct& product, std::ostream* out) {
  *out << name_of(product.format) << "_" << dtype_name(product.x) << "_to_" << dtype_name(product.y);
}

namespace {

using testing::random_normal;
using testing::relative_error;
using testing::rounding_tolerance;

constexpr int64_t kGroups = 3;
constexpr int64_t kOutputs = 38;
constexpr int64_t kInputs = 70;
constexpr int64_t kRows = 12;
constexpr float kUntouched = 3;  // what y holds before
// Rows 3 and 11 are padding, as an alignment of 4 leaves it; one group has no rows.
const std::vector<int32_t> kOffsets = {0, 4, 4, 12};
const std::vector<int32_t> kSizes = {3, 0, 7};

std::vector<double> rounded(const std::vector<float>& values, DType dtype) {
  std::vector<double> result;
  for (const float v : values) result.push_back(dtype == DType::kF32 ? v : to_float(to_bfloat16(v)));
  return result;
}

class WeightFormats : public ::testing::TestWithParam<WeightProduct> {
 protected:
  void SetUp() override {
    if (device_of(GetParam().format) == DeviceKind::kCpu) return;
    DT_TAKE_GPU(ctx_.device);
    use_device(ctx_.device);
    ctx_.compute = Stream(ctx_.device);
  }

  // A tensor on the device with the first of these values, rounded to the dtype.
  static void fill(const Tensor& tensor, std::vector<float> values) {
    values.resize(tensor.numel());
    if (tensor.dtype() == DType::kF32) return upload<float>(tensor, values);
    std::vector<bfloat16> narrow;
    for (const float v : values) narrow.push_back(to_bfloat16(v));
    copy_tensor(tensor, Tensor(narrow.data(), DType::kBF16, {static_cast<int64_t>(narrow.size())}));
  }
  static std::vector<double> read(const Tensor& tensor) {
    if (tensor.dtype() == DType::kF32) return testing::to_double(download<float>(tensor));
    std::vector<bfloat16> values(tensor.numel());
    copy_tensor(Tensor(values.data(), DType::kBF16, {tensor.numel()}), tensor);
    return testing::to_double(values);
  }

  // Runs the product from x [rows, columns] into y [rows, y_columns] and compares with `expected`, for a weight of
  // `groups` that lies in memory as `stored`, each group in two pieces.
  void expect_product(int64_t groups, DType stored, BackwardLayout backward, int64_t x_columns, int64_t y_columns,
                      const std::function<void(const Tensor& y, const Tensor& x, const PreparedWeight& weight,
                                               const RowGroups& row_groups)>& run,
                      const std::function<double(int64_t row, int64_t column)>& expected, const std::string& what) {
    const auto [format, x_type, y_type] = GetParam();
    Arena tensors("tensors", ctx_.device), prepared("prepared", ctx_.device), workspace("workspace", ctx_.device);
    ctx_.workspace = &workspace;
    PreparedWeight weight;
    weight.groups = groups;
    weight.outputs = kOutputs;
    weight.inputs = kInputs;
    weight.activations = x_type;
    weight.backward_layout = backward;
    Tensor x, y;
    RowGroups row_groups{.offsets = {}, .sizes = {}, .capacity = kRows, .alignment = 4};
    for (const bool planning : {true, false}) {
      ctx_.planning = planning;
      plan_prepared_weight(weight, prepared);
      EXPECT_TRUE(weight.format == format);
      x = tensors.take(x_type, {kRows, x_columns});
      y = tensors.take(y_type, {kRows, y_columns});
      row_groups.offsets = tensors.take(DType::kI32, {kGroups + 1});
      row_groups.sizes = tensors.take(DType::kI32, {kGroups});
      if (!planning) {
        prepare(weight, stored), fill(x, x_), fill(y, std::vector<float>(y.numel(), kUntouched));
        upload<int32_t>(row_groups.offsets, kOffsets), upload<int32_t>(row_groups.sizes, kSizes);
      }
      run(y, x, weight, row_groups);
      if (planning) tensors.allocate(), prepared.allocate(), workspace.allocate();
    }
    std::vector<double> wanted;
    for (int64_t r = 0; r < kRows; ++r) {
      const bool padding = groups > 1 && (r == 3 || r == 11);
      for (int64_t c = 0; c < y_columns; ++c) wanted.push_back(padding ? kUntouched : expected(r, c));
    }
    EXPECT_LT(relative_error(read(y), wanted),
              y_type == DType::kF32 ? rounding_tolerance<float>() : rounding_tolerance<bfloat16>())
        << what << " from " << dtype_name(stored);
  }

  void prepare(PreparedWeight& weight, DType stored) {
    std::vector<bfloat16> narrow;
    for (const float v : w_) narrow.push_back(to_bfloat16(v));
    std::vector<Tensor> pieces;
    for (int64_t g = 0; g < weight.groups; ++g) {
      for (const auto& [first, rows] : {std::pair<int64_t, int64_t>{0, 15}, {15, kOutputs - 15}}) {
        const int64_t element = (g * kOutputs + first) * kInputs;
        void* data = stored == DType::kF32 ? static_cast<void*>(w_.data() + element) : narrow.data() + element;
        pieces.emplace_back(data, stored, Tensor::Shape{rows, kInputs});
      }
    }
    // Two groups, then the rest.
    const size_t first = std::min<size_t>(4, pieces.size());
    prepare_weight(ctx_, weight, 0, std::span(pieces).first(first));
    prepare_weight(ctx_, weight, 2, std::span(pieces).subspan(first));
  }

  // The weight as the format holds it.
  std::vector<double> weight_values(DType stored) const {
    const DType held = GetParam().x;
    return rounded(w_, stored == DType::kBF16 ? stored : held);
  }

  static int64_t group_of(int64_t row) { return row < kOffsets[1] ? 0 : 2; }

  ExecutionContext ctx_;
  std::vector<float> w_ = random_normal<float>(kGroups * kOutputs * kInputs, 1);
  std::vector<float> x_ = random_normal<float>(kRows * kGroups * kInputs, 2);
};

TEST_P(WeightFormats, EveryUseOfAWeightIsItsProduct) {
  const std::vector<double> x = rounded(x_, GetParam().x);
  for (const DType stored : {DType::kF32, DType::kBF16}) {
    const std::vector<double> w = weight_values(stored);
    // Row r of x times W_g^T, or W_g, where x has `width` columns and the product begins at column `first` of them.
    const auto sum = [&](int64_t r, int64_t width, int64_t first, int64_t g, int64_t c, bool backward) {
      double total = 0;
      for (int64_t i = 0; i < (backward ? kOutputs : kInputs); ++i) {
        total += x[r * width + first + i] * w[g * kOutputs * kInputs + (backward ? i * kInputs + c : c * kInputs + i)];
      }
      return total;
    };
    expect_product(
        1, stored, BackwardLayout::kNone, kInputs, kOutputs,
        [&](const Tensor& y, const Tensor& from, const PreparedWeight& weight, const RowGroups&) {
          linear(ctx_, y, from, weight);
          linear(ctx_, y, from, weight, /*accumulate=*/true);
        },
        [&](int64_t r, int64_t c) { return 2 * sum(r, kInputs, 0, 0, c, false); }, "linear, twice");
    expect_product(
        kGroups, stored, BackwardLayout::kNone, kInputs, kOutputs,
        [&](const Tensor& y, const Tensor& from, const PreparedWeight& weight, const RowGroups& row_groups) {
          grouped_linear(ctx_, y, from, weight, row_groups);
        },
        [&](int64_t r, int64_t c) { return sum(r, kInputs, 0, group_of(r), c, false); }, "grouped_linear");
    for (const BackwardLayout layout : {BackwardLayout::kKept, BackwardLayout::kDerived}) {
      const std::string how = layout == BackwardLayout::kKept ? ", kept" : ", derived";
      expect_product(
          1, stored, layout, kOutputs, kInputs,
          [&](const Tensor& y, const Tensor& from, const PreparedWeight& weight, const RowGroups&) {
            linear_backward_input(ctx_, y, from, weight);
          },
          [&](int64_t r, int64_t c) { return sum(r, kOutputs, 0, 0, c, true); }, "linear_backward_input" + how);
      expect_product(
          kGroups, stored, layout, kOutputs, kInputs,
          [&](const Tensor& y, const Tensor& from, const PreparedWeight& weight, const RowGroups& row_groups) {
            grouped_linear_backward_input(ctx_, y, from, weight, row_groups);
          },
          [&](int64_t r, int64_t c) { return sum(r, kOutputs, 0, group_of(r), c, true); },
          "grouped_linear_backward_input" + how);
    }
  }
}

// fp8 takes part in experts' products alone: expert_products_test.cpp.
std::vector<WeightProduct> products_of_all_uses() {
  std::vector<WeightProduct> products;
  for (const WeightProduct& product : weight_products()) {
    if (!is_fp8(product.format)) products.push_back(product);
  }
  return products;
}

INSTANTIATE_TEST_SUITE_P(AllProducts, WeightFormats, ::testing::ValuesIn(products_of_all_uses()),
                         [](const auto& product) { return ::testing::PrintToString(product.param); });

TEST(WeightFormat, AProductThatDoesNotExistNamesThoseThatDo) {
  float memory[4] = {};
  const Tensor f32(memory, DType::kF32, {2, 2});
  const Tensor bf16(memory, DType::kBF16, {2, 2});
  expect_runtime_error([&] { check_weight_product("linear", WeightFormat::kPanelsBf16, f32, f32); },
                       "linear: a weight as panels_bf16 does not take f32 to f32; it takes bf16 to bf16, bf16 to f32");
  check_weight_product("linear", WeightFormat::kRowsBf16, bf16, f32);
  expect_runtime_error(
      [] {
        weight_format({DeviceKind::kCuda, 0}, DType::kF16);
      },
      "no format of weights for activations of f16 on a GPU; there are some for f32, bf16");
}

}  // namespace
}  // namespace deeptitan
