#include "kernels/cuda/matmul/matmul.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/cpu/matmul/matmul.h"
#include "kernels/cpu/matmul/packing.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {
namespace {

/// C[m, n] (+)= sum over k of A[m, k] B[k, n] in double, of one batch.
template <typename In, typename Out>
void reference(StridedProduct<In, Out> p, int64_t batch, const std::vector<int32_t>& offset, std::vector<double>* c) {
  int64_t first_row = 0, rows = p.rows, first_step = 0, steps = p.steps;
  if (p.groups == ProductGroups::kRows) first_row = offset[batch], rows = offset[batch + 1] - first_row;
  if (p.groups == ProductGroups::kSteps) first_step = offset[batch], steps = offset[batch + 1] - first_step;
  for (int64_t m = first_row; m < first_row + rows; ++m) {
    for (int64_t n = 0; n < p.columns; ++n) {
      double sum = 0;
      for (int64_t k = first_step; k < first_step + steps; ++k) {
        sum += static_cast<double>(to_float(p.a[batch * p.a_batch + m * p.a_row + k * p.a_step])) *
               to_float(p.b[batch * p.b_batch + k * p.b_step + n * p.b_column]);
      }
      double& out = (*c)[batch * p.c_batch + m * p.c_row + n];
      out = p.accumulate ? out + sum : sum;
    }
  }
}

/// Runs `p`, whose pointers are null, on the device over operands of these sizes, and compares with the reference.
template <typename In, typename Out>
void check(StridedProduct<In, Out> p, int64_t a_size, int64_t b_size, int64_t c_size,
           const std::vector<int32_t>& offset = {}) {
  const auto a = random_elements<In>(a_size, 50), b = random_elements<In>(b_size, 51);
  const auto before = random_elements<Out>(c_size, 52);
  std::vector<double> expected(c_size);
  for (int64_t i = 0; i < c_size; ++i) expected[i] = to_float(before[i]);
  DeviceBuffer<In> device_a(a), device_b(b);
  DeviceBuffer<Out> device_c(before);
  std::vector<int32_t> count;
  for (size_t g = 1; g < offset.size(); ++g) count.push_back(offset[g] - offset[g - 1]);
  DeviceBuffer<int32_t> device_offset(offset), device_count(count);
  p.a = a.data(), p.b = b.data();
  for (int64_t batch = 0; batch < p.batches; ++batch) reference(p, batch, offset, &expected);
  p.a = device_a.get(), p.b = device_b.get(), p.c = device_c.get(),
  p.group_rows = {device_offset.get(), device_count.get(), p.batches};
  multiply_strided(p, nullptr);
  const std::vector<Out> result = device_c.download();
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < c_size; ++i) {
    difference += std::pow(to_float(result[i]) - expected[i], 2);
    norm += expected[i] * expected[i];
  }
  EXPECT_LT(std::sqrt(difference / norm), (std::is_same_v<Out, float> ? 1e-6 : 2.5e-3));
}

template <typename T>
class PlainProduct : public OverElementTypes<T> {
 protected:
  template <typename Out>
  void check_directions() {
    for (const auto& [m, n, k] : std::vector<std::array<int64_t, 3>>{
             {1, 1, 1}, {1, 200, 65}, {65, 63, 17}, {130, 70, 33}, {64, 64, 16}, {7, 300, 0}}) {
      for (const bool accumulate : {false, true}) {
        const int64_t ld_x = k + 5, ld_y = n + 3;
        SCOPED_TRACE(testing::Message() << m << " x " << n << " x " << k << (accumulate ? " added" : ""));
        check(StridedProduct<T, Out>{.c_row = ld_y,
                                     .a_row = ld_x,
                                     .a_step = 1,
                                     .b_step = 1,
                                     .b_column = k,
                                     .rows = m,
                                     .steps = k,
                                     .columns = n,
                                     .batches = 1,
                                     .accumulate = accumulate},
              m * ld_x, n * k, m * ld_y);
        check(StridedProduct<T, Out>{.c_row = ld_x,
                                     .a_row = ld_y,
                                     .a_step = 1,
                                     .b_step = k,
                                     .b_column = 1,
                                     .rows = m,
                                     .steps = n,
                                     .columns = k,
                                     .batches = 1,
                                     .accumulate = accumulate},
              m * ld_y, n * k, m * ld_x);
        check(StridedProduct<T, Out>{.c_row = k,
                                     .a_row = 1,
                                     .a_step = ld_y,
                                     .b_step = ld_x,
                                     .b_column = 1,
                                     .rows = n,
                                     .steps = m,
                                     .columns = k,
                                     .batches = 1,
                                     .accumulate = accumulate},
              m * ld_y, m * ld_x, n * k + 1);
      }
    }
  }
};
TYPED_TEST_SUITE(PlainProduct, ElementTypes, ElementName);

TYPED_TEST(PlainProduct, AllDirectionsIntoF32) {
  this->template check_directions<float>();
}
TYPED_TEST(PlainProduct, AllDirectionsIntoBf16) {
  this->template check_directions<bfloat16>();
}

TYPED_TEST(PlainProduct, GroupsOfRowsAndOfSteps) {
  using T = TypeParam;
  const std::vector<int32_t> offset = {0, 3, 3, 70, 71, 200, 200};
  constexpr int64_t kGroups = 6, kRows = 200, kN = 75, kK = 41;
  for (const bool accumulate : {false, true}) {
    check(StridedProduct<T, T>{.c_row = kN,
                               .a_row = kK,
                               .a_step = 1,
                               .b_step = 1,
                               .b_column = kK,
                               .b_batch = kN * kK,
                               .rows = kRows,
                               .steps = kK,
                               .columns = kN,
                               .batches = kGroups,
                               .groups = ProductGroups::kRows,
                               .accumulate = accumulate},
          kRows * kK, kGroups * kN * kK, kRows * kN, offset);
    check(StridedProduct<T, T>{.c_row = kK,
                               .a_row = kN,
                               .a_step = 1,
                               .b_step = kK,
                               .b_column = 1,
                               .b_batch = kN * kK,
                               .rows = kRows,
                               .steps = kN,
                               .columns = kK,
                               .batches = kGroups,
                               .groups = ProductGroups::kRows,
                               .accumulate = accumulate},
          kRows * kN, kGroups * kN * kK, kRows * kK, offset);
    check(StridedProduct<T, float>{.c_row = kK,
                                   .c_batch = kN * kK,
                                   .a_row = 1,
                                   .a_step = kN,
                                   .b_step = kK,
                                   .b_column = 1,
                                   .rows = kN,
                                   .steps = kRows,
                                   .columns = kK,
                                   .batches = kGroups,
                                   .groups = ProductGroups::kSteps,
                                   .accumulate = accumulate},
          kRows * kN, kRows * kK, kGroups * kN * kK, offset);
  }
}

TYPED_TEST(PlainProduct, HeadsAreBatchesOfColumns) {
  using T = TypeParam;
  constexpr int64_t kRows = 21, kHeads = 5, kWide = 50, kN = 33, kK = 40;  // heads of 50, of which 40 or 33 are read
  check(StridedProduct<T, T>{.c_row = kHeads * kN,
                             .c_batch = kN,
                             .a_row = kHeads * kWide,
                             .a_step = 1,
                             .a_batch = kWide,
                             .b_step = 1,
                             .b_column = kK,
                             .b_batch = kN * kK,
                             .rows = kRows,
                             .steps = kK,
                             .columns = kN,
                             .batches = kHeads},
        kRows * kHeads * kWide, kHeads * kN * kK, kRows * kHeads * kN);
}

// What makes greedy text equal on both: products of fp32 sum in the order of K, one fused step at a time.
TEST(PlainProductF32, HasTheBitsOfTheCpu) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kRows = 67, kN = 130, kK = 515;
  const auto x = random_elements<float>(kRows * kK, 53), weight = random_elements<float>(kN * kK, 54);
  std::vector<uint32_t> packed(cpu::packed_words(cpu::OperandType::kFloat, kK, kN));
  cpu::pack_transposed(packed.data(), weight.data(), kK, kK, kN, cpu::OperandType::kFloat);
  std::vector<float> expected(kRows * kN);
  cpu::matmul(cpu::MatmulOutput<float>{expected.data(), kN, false}, x.data(), kK, packed.data(), kRows, kK, kN);
  DeviceBuffer<float> device_x(x), device_weight(weight), out(kRows * kN);
  StridedProduct<float, float> p{};
  p.c = out.get(), p.c_row = kN;
  p.a = device_x.get(), p.a_row = kK, p.a_step = 1;
  p.b = device_weight.get(), p.b_step = 1, p.b_column = kK;
  p.rows = kRows, p.steps = kK, p.columns = kN, p.batches = 1;
  multiply_strided(p, nullptr);
  EXPECT_TRUE(same_bytes(out.download(), expected));
}

}  // namespace
}  // namespace deeptitan::cuda
