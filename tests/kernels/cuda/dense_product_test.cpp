#include "kernels/cuda/matmul/dense_product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/cuda/matmul/few_rows.h"
#include "kernels/cuda/matmul/matmul.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {
namespace {

// Of bf16 results, which the library rounds once more before it adds them to what is there.
template <typename Out>
constexpr double kRounding = std::is_same_v<Out, float> ? 2e-6 : 4e-3;

/// ||found - expected|| / ||expected||.
template <typename Out>
double relative(const std::vector<Out>& found, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    difference += std::pow(to_float(found[i]) - expected[i], 2);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

/// y[m, n] = before[m, n] (where it accumulates) + sum over k of left(m, k) right(k, n).
template <typename Left, typename Right>
std::vector<double> multiply(int64_t m, int64_t n, int64_t k, const Left& left, const Right& right) {
  std::vector<double> y(m * n);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t s = 0; s < k; ++s) {
      const double x = left(i, s);
      for (int64_t j = 0; j < n; ++j) y[i * n + j] += x * right(s, j);
    }
  }
  return y;
}

template <typename In, typename Out>
void check_forms(int64_t m, int64_t n, int64_t k) {
  constexpr bool kF32 = std::is_same_v<In, float>;
  const int64_t ld = k + 8;
  const auto x = random_elements<In>(m * ld, 1), weight = random_elements<In>(n * k, 2);
  const auto d_out = random_elements<In>(m * n, 3);
  DeviceBuffer<In> device_x(x), device_weight(weight), device_d_out(d_out);
  DeviceBuffer<char> workspace(kDenseWorkspaceBytes);
  const auto x_at = [&](int64_t i, int64_t s) { return to_float(x[i * ld + s]); };
  const auto w_at = [&](int64_t i, int64_t s) { return to_float(weight[i * k + s]); };
  const auto d_at = [&](int64_t i, int64_t s) { return to_float(d_out[i * n + s]); };
  for (const bool accumulate : {false, true}) {
    SCOPED_TRACE(testing::Message() << m << " x " << n << " x " << k << (accumulate ? " added" : ""));
    const auto run = [&](int64_t rows, int64_t columns, DenseProduct p, std::vector<double> expected, auto zero,
                         double tolerance) {
      using Y = decltype(zero);
      const auto before = random_elements<Y>(rows * columns, 4);
      for (size_t i = 0; i < expected.size() && accumulate; ++i) expected[i] += to_float(before[i]);
      DeviceBuffer<Y> y(before);
      p.output = y.get(), p.output_stride = columns, p.f32_output = std::is_same_v<Y, float>, p.f32_operands = kF32;
      p.accumulate = accumulate;
      EXPECT_TRUE(dense_product_fits(p));
      multiply_dense(p, workspace.get(), nullptr);
      EXPECT_LT(relative(y.download(), expected), tolerance);
    };
    run(m, n, {.left = {device_x.get(), m, k, ld, false}, .right = {device_weight.get(), n, k, k, true}},
        multiply(m, n, k, x_at, [&](int64_t s, int64_t j) { return w_at(j, s); }), Out{}, kRounding<Out>);
    run(m, k, {.left = {device_d_out.get(), m, n, n, false}, .right = {device_weight.get(), n, k, k, false}},
        multiply(m, k, n, d_at, w_at), Out{}, kRounding<Out>);
    run(n, k,
        {.left = {device_d_out.get(), m, n, n, true}, .right = {device_x.get(), m, k, ld, false}, .whole_class = false},
        multiply(
            n, k, m, [&](int64_t i, int64_t s) { return d_at(s, i); }, x_at),
        0.0f, 3e-6);
  }
}

TEST(DenseProduct, ForwardInputAndWeightGradients) {
  DT_SKIP_WITHOUT_GPU();
  for (const auto& [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{17, 24, 40}, {300, 136, 72}, {257, 64, 576}}) {
    check_forms<bfloat16, bfloat16>(m, n, k);
    check_forms<bfloat16, float>(m, n, k);
    check_forms<float, float>(m, n, k);
  }
}

TEST(DenseProduct, OfEachBatch) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kM = 33, kN = 64, kK = 128, kBatches = 3;
  DeviceBuffer<bfloat16> x(random_elements<bfloat16>(kM * kBatches * kK, 17));
  DeviceBuffer<bfloat16> weight(random_elements<bfloat16>(kBatches * kN * kK, 18));
  DeviceBuffer<float> y(kM * kBatches * kN), alone(kM * kN);
  DeviceBuffer<char> workspace(kDenseWorkspaceBytes);
  DenseProduct product{.output = y.get(),
                       .output_stride = kBatches * kN,
                       .left = {x.get(), kM, kK, kBatches * kK, false, kK},
                       .right = {weight.get(), kN, kK, kK, true, kN * kK},
                       .batches = kBatches,
                       .output_batch = kN};
  multiply_dense(product, workspace.get(), nullptr);
  const std::vector<float> found = y.download();
  product.output = alone.get(), product.output_stride = kN, product.batches = 1;
  for (int64_t b = 0; b < kBatches; ++b) {
    product.left.data = x.get() + b * kK, product.right.data = weight.get() + b * kN * kK;
    multiply_dense(product, workspace.get(), nullptr);
    const std::vector<float> expected = alone.download();
    for (int64_t i = 0; i < kM * kN; ++i) {
      EXPECT_NEAR(found[i / kN * kBatches * kN + b * kN + i % kN], expected[i], 1e-4) << b;
    }
  }
}

// Within a class of row counts a row's bits do not depend on how many stand beside it.
TEST(DenseProduct, ARowIsItsOwn) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kMostRows = 2500;
  DeviceBuffer<char> workspace(kDenseWorkspaceBytes);
  for (const auto& [n, k] :
       {std::pair<int64_t, int64_t>{1408, 2048}, {2048, 2048}, {3072, 2048}, {576, 2048}, {2048, 2816}, {5632, 2048}}) {
    DeviceBuffer<bfloat16> x(random_elements<bfloat16>(kMostRows * k, 5)), weight(random_elements<bfloat16>(n * k, 6));
    DeviceBuffer<bfloat16> y(kMostRows * n);
    const auto first_rows = [&](int64_t rows) {
      multiply_dense({.output = y.get(),
                      .output_stride = n,
                      .f32_output = false,
                      .left = {x.get(), rows, k, k, false},
                      .right = {weight.get(), n, k, k, true}},
                     workspace.get(), nullptr);
      std::vector<bfloat16> found = y.download();
      found.resize(17 * n);
      return found;
    };
    const std::initializer_list<std::initializer_list<int64_t>> classes = {
        {17, 18, 32, 64, 65, 100, 128, 129, 200, 256}, {257, 512}, {513, 1024}, {1025, 2048}, {2049, kMostRows}};
    for (const std::initializer_list<int64_t>& of_class : classes) {
      const std::vector<bfloat16> least = first_rows(*of_class.begin());
      for (const int64_t rows : of_class) {
        EXPECT_TRUE(same_bytes(least, first_rows(rows))) << rows << " rows, " << n << " x " << k;
      }
    }
  }
}

TEST(FewRows, AreTheProductAndEachItsOwn) {
  DT_SKIP_WITHOUT_GPU();
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{5, 8}, {1000, 576}, {70, 2056}}) {
    const int64_t ld = k + 16;
    const auto x = random_elements<bfloat16>(kFewRows * ld, 7), weight = random_elements<bfloat16>(n * k, 8);
    const auto before = random_elements<float>(kFewRows * n, 9);
    DeviceBuffer<bfloat16> device_x(x), device_weight(weight);
    const auto expected = multiply(
        kFewRows, n, k, [&](int64_t i, int64_t s) { return to_float(x[i * ld + s]); },
        [&](int64_t s, int64_t j) { return to_float(weight[j * k + s]); });
    std::vector<float> all;
    for (const int64_t rows : {kFewRows, int64_t{9}, int64_t{3}, int64_t{1}}) {
      DeviceBuffer<float> y(before);
      DeviceBuffer<bfloat16> rounded(rows * n);
      multiply_few_rows<float>({y.get(), n, device_x.get(), ld, device_weight.get(), rows, n, k}, nullptr);
      multiply_few_rows<bfloat16>({rounded.get(), n, device_x.get(), ld, device_weight.get(), rows, n, k}, nullptr);
      std::vector<float> found = y.download();
      for (int64_t i = rows * n; i < kFewRows * n; ++i) EXPECT_EQ(found[i], before[i]) << "not asked for";
      found.resize(rows * n);
      if (all.empty()) {
        all = found;
        EXPECT_LT(relative(found, expected), 2e-6) << n << " x " << k;
      }
      EXPECT_TRUE(same_bytes(found, std::vector<float>(all.begin(), all.begin() + rows * n))) << rows;
      const std::vector<bfloat16> of_rounded = rounded.download();
      for (int64_t i = 0; i < rows * n; ++i) EXPECT_EQ(of_rounded[i].bits, to_bfloat16(found[i]).bits);
      multiply_few_rows<float>({.y = y.get(),
                                .ld_y = n,
                                .x = device_x.get(),
                                .ld_x = ld,
                                .weight = device_weight.get(),
                                .rows = rows,
                                .outputs = n,
                                .inputs = k,
                                .accumulate = true},
                               nullptr);
      const std::vector<float> twice = y.download();
      for (int64_t i = 0; i < rows * n; ++i) EXPECT_EQ(twice[i], 2 * found[i]);
    }
  }
}

TEST(FewRows, InFp32HaveTheBitsOfThePlainProduct) {
  DT_SKIP_WITHOUT_GPU();
  for (const auto& [rows, n, k] : {std::tuple<int64_t, int64_t, int64_t>{1, 64, 2048}, {16, 13, 300}, {5, 8, 7}}) {
    const int64_t ld = k + 3;
    DeviceBuffer<float> x(random_elements<float>(rows * ld, 13)), weight(random_elements<float>(n * k, 14));
    DeviceBuffer<float> few(rows * n), plain(rows * n);
    multiply_few_rows_in_order(few.get(), n, x.get(), ld, weight.get(), rows, n, k, nullptr);
    multiply_strided(StridedProduct<float, float>{.c = plain.get(),
                                                  .c_row = n,
                                                  .a = x.get(),
                                                  .a_row = ld,
                                                  .a_step = 1,
                                                  .b = weight.get(),
                                                  .b_step = 1,
                                                  .b_column = k,
                                                  .rows = rows,
                                                  .steps = k,
                                                  .columns = n},
                     nullptr);
    EXPECT_TRUE(same_bytes(few.download(), plain.download())) << rows << " x " << n << " x " << k;
  }
}

TEST(FewRows, OfTwoProductsAreThoseOfEach) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kFirst = 21, kSecond = 10, kIn = 2312;
  DeviceBuffer<bfloat16> x(random_elements<bfloat16>(kFewRows * kIn, 15));
  DeviceBuffer<bfloat16> weight(random_elements<bfloat16>(kFirst * kIn, 16));
  DeviceBuffer<bfloat16> other(random_elements<bfloat16>(kSecond * kIn, 17));
  for (const int64_t rows : {int64_t{1}, int64_t{4}, kFewRows}) {
    DeviceBuffer<bfloat16> y(rows * kFirst), z(rows * kSecond), y_alone(rows * kFirst), z_alone(rows * kSecond);
    const FewRowsProduct<bfloat16> first{y.get(), kFirst, x.get(), kIn, weight.get(), rows, kFirst, kIn};
    const FewRowsProduct<bfloat16> second{z.get(), kSecond, x.get(), kIn, other.get(), rows, kSecond, kIn};
    multiply_few_rows_twice(first, second, nullptr);
    FewRowsProduct<bfloat16> alone = first;
    alone.y = y_alone.get();
    multiply_few_rows(alone, nullptr);
    EXPECT_TRUE(same_bytes(y.download(), y_alone.download())) << rows;
    alone = second;
    alone.y = z_alone.get();
    multiply_few_rows(alone, nullptr);
    EXPECT_TRUE(same_bytes(z.download(), z_alone.download())) << rows;
  }
}

TEST(FewRows, MeetTheWeightOfTheirGroup) {
  DT_SKIP_WITHOUT_GPU();
  constexpr int64_t kN = 90, kK = 264, kGroups = 7;
  const std::vector<int32_t> offsets = {0, 0, 3, 4, 4, 9, 11, 11};  // two rows of no group behind
  const std::vector<int32_t> sizes = {0, 3, 1, 0, 4, 2, 0};         // one of none inside
  constexpr int64_t kRows = 13;
  const auto x = random_elements<bfloat16>(kRows * kK, 10), weight = random_elements<bfloat16>(kGroups * kN * kK, 11);
  DeviceBuffer<bfloat16> device_x(x), device_weight(weight);
  DeviceBuffer<int32_t> device_offsets(offsets), device_sizes(sizes);
  const auto before = random_elements<float>(kRows * kN, 12);
  DeviceBuffer<float> y(before), alone(kN);
  multiply_few_rows<float>({y.get(),
                            kN,
                            device_x.get(),
                            kK,
                            device_weight.get(),
                            kRows,
                            kN,
                            kK,
                            {device_offsets.get(), device_sizes.get(), kGroups}},
                           nullptr);
  const std::vector<float> found = y.download();
  for (int64_t g = 0; g < kGroups; ++g) {
    for (int64_t r = offsets[g]; r < offsets[g] + sizes[g]; ++r) {
      multiply_few_rows<float>(
          {alone.get(), kN, device_x.get() + r * kK, kK, device_weight.get() + g * kN * kK, 1, kN, kK}, nullptr);
      EXPECT_TRUE(
          same_bytes(alone.download(), std::vector<float>(found.begin() + r * kN, found.begin() + (r + 1) * kN)))
          << r;
    }
  }
  for (const int64_t r : {8, 11, 12}) {
    for (int64_t i = r * kN; i < (r + 1) * kN; ++i) EXPECT_EQ(found[i], before[i]) << r;
  }
}

}  // namespace
}  // namespace deeptitan::cuda
