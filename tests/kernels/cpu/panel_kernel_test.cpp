#include "kernels/cpu/matmul/panel_kernel.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/matmul/packing.h"
#include "support/compare.h"

// The register tile of every instruction set, on one machine.

namespace deeptitan::cpu {
namespace {

using testing::random_normal;
using testing::relative_error;
using testing::rounding_tolerance;

struct Shape {
  int64_t rows, contracted, columns;
};
// Every number of rows up to more than two tiles, panels that are not full, one panel and several.
const Shape kShapes[] = {{1, 2, 1},  {1, 64, 96}, {2, 10, 64},  {3, 6, 33},  {4, 30, 40},   {5, 8, 70},
                         {6, 4, 31}, {7, 18, 97}, {8, 128, 32}, {9, 66, 65}, {19, 200, 130}};

class PanelKernel : public ::testing::TestWithParam<const char*> {
 protected:
  const PanelIsa* isa() const {
    for (const PanelIsa& isa : panel_isas()) {
      if (std::string(isa.name) == GetParam()) return &isa;
    }
    return nullptr;
  }
};
#define DT_NEEDS_ISA() \
  if (isa() == nullptr) GTEST_SKIP() << "this processor has no " << GetParam()

template <typename T, typename Output>
void expect_product(const PanelIsa& isa, const Shape& s, bool accumulate) {
  constexpr OperandType type = std::is_same_v<T, bfloat16> ? OperandType::kBfloat16 : OperandType::kFloat;
  const auto a = random_normal<T>(s.rows * s.contracted, 1);
  const auto w = random_normal<T>(s.columns * s.contracted, 2);
  std::vector<uint32_t> packed(packed_words(type, s.contracted, s.columns));
  pack_transposed(packed.data(), w.data(), s.contracted, s.contracted, s.columns, type);
  auto c = random_normal<Output>(s.rows * s.columns, 3);
  std::vector<double> expected(c.size(), 0.0);
  for (int64_t m = 0; m < s.rows; ++m) {
    for (int64_t n = 0; n < s.columns; ++n) {
      double& sum = expected[m * s.columns + n];
      if (accumulate) sum = static_cast<double>(to_float(c[m * s.columns + n]));
      for (int64_t k = 0; k < s.contracted; ++k) {
        sum += static_cast<double>(to_float(a[m * s.contracted + k])) * to_float(w[n * s.contracted + k]);
      }
    }
  }
  const int64_t words = packed_steps(type, s.contracted);
  isa.product(PanelProduct{.operands = type,
                           .a = reinterpret_cast<const uint32_t*>(a.data()),
                           .a_row_stride = words,
                           .a_step_stride = 1,
                           .rows = s.rows,
                           .b = packed.data(),
                           .b_panel_stride = words * kPanelColumns,
                           .panels = packed_panels(s.columns),
                           .steps = words,
                           .c = c.data(),
                           .c_row_stride = s.columns,
                           .c_is_bfloat16 = std::is_same_v<Output, bfloat16>,
                           .accumulate = accumulate,
                           .columns = s.columns});
  EXPECT_LT(relative_error(c, expected), rounding_tolerance<Output>())
      << isa.name << ": " << s.rows << " x " << s.contracted << " x " << s.columns;
}

TEST_P(PanelKernel, EqualsTheReference) {
  DT_NEEDS_ISA();
  for (const Shape& shape : kShapes) {
    for (const bool accumulate : {false, true}) {
      expect_product<float, float>(*isa(), shape, accumulate);
      expect_product<bfloat16, float>(*isa(), shape, accumulate);
      expect_product<bfloat16, bfloat16>(*isa(), shape, accumulate);
    }
  }
}

// Each sum has added 1 * 1 (in bf16: twice) a step; what was counted is what was added.
TEST_P(PanelKernel, PeakLoopCountsWhatItAdds) {
  DT_NEEDS_ISA();
  float sink[16];
  std::fill_n(sink, 16, 1.0f);
  const int64_t operations = isa()->peak_loop(OperandType::kFloat, 1000, sink);
  const int64_t lanes = std::string(GetParam()) == "avx2" ? 8 : 16;
  EXPECT_EQ(operations, 2 * lanes * static_cast<int64_t>(sink[0]));
  EXPECT_EQ(sink[0], sink[lanes - 1]);
  EXPECT_GE(sink[0], 8000.0f);
}

INSTANTIATE_TEST_SUITE_P(Isas, PanelKernel, ::testing::Values("avx2", "avx512", "avx512_bf16"),
                         [](const auto& isa) { return std::string(isa.param); });

}  // namespace
}  // namespace deeptitan::cpu
