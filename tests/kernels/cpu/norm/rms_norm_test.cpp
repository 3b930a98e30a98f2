#include "kernels/cpu/norm/rms_norm.h"

#include "kernels/cpu/vector_kernel_test.h"

namespace deeptitan::cpu {
namespace {

constexpr float kEpsilon = 1e-5f;

struct Shape {
  int64_t rows, dim, ld;
};
// One element; shorter than a vector; ragged; slices of wider rows; a model's width.
constexpr Shape kShapes[] = {{1, 1, 1}, {3, 7, 7}, {5, 33, 40}, {2, 131, 140}, {70, 256, 256}, {3, 1029, 1029}};

/// out [rows, dim] of plain rows [rows, dim].
std::vector<double> reference(const std::vector<double>& x, const std::vector<double>& weight, int64_t rows) {
  const size_t dim = weight.size();
  std::vector<double> out;
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    double sum = 0.0;
    for (size_t i = 0; i < dim; ++i) sum += x[r * dim + i] * x[r * dim + i];
    const double rstd = 1.0 / std::sqrt(sum / static_cast<double>(dim) + kEpsilon);
    for (size_t i = 0; i < dim; ++i) out.push_back(x[r * dim + i] * rstd * weight[i]);
  }
  return out;
}

/// The first dim elements of each row of [rows, ld].
template <typename T>
std::vector<T> slice(const std::vector<T>& values, Shape shape) {
  std::vector<T> result;
  for (int64_t r = 0; r < shape.rows; ++r) {
    const auto row = values.begin() + r * shape.ld;
    result.insert(result.end(), row, row + shape.dim);
  }
  return result;
}

/// Gradients of sum(d_out * rms_norm(x)) in double: with respect to x [rows, dim], then to the weight [dim].
struct Gradients {
  std::vector<double> x, weight;
};
Gradients reference_gradients(const std::vector<double>& d_out, const std::vector<double>& x,
                              const std::vector<double>& weight, int64_t rows) {
  const size_t dim = weight.size();
  Gradients gradients{{}, std::vector<double>(dim)};
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    double squares = 0.0, dot = 0.0;
    for (size_t i = 0; i < dim; ++i) {
      const double value = x[r * dim + i];
      squares += value * value;
      dot += weight[i] * d_out[r * dim + i] * value;
    }
    const double rstd = 1.0 / std::sqrt(squares / static_cast<double>(dim) + kEpsilon);
    for (size_t i = 0; i < dim; ++i) {
      const double value = x[r * dim + i], d = d_out[r * dim + i];
      gradients.x.push_back(rstd * (weight[i] * d - value * rstd * rstd * dot / static_cast<double>(dim)));
      gradients.weight[i] += d * value * rstd;
    }
  }
  return gradients;
}

template <typename T>
class RmsNorm : public ::testing::Test {};
TYPED_TEST_SUITE(RmsNorm, ElementTypes);

TYPED_TEST(RmsNorm, MatchesTheReferenceAndLeavesOtherColumnsAlone) {
  using T = TypeParam;
  on_each_instruction_set([] {
    for (const Shape shape : kShapes) {
      const auto x = random_normal<T>(shape.rows * shape.ld, 1, 3.0);
      const auto weight = random_normal<float>(shape.dim, 2);
      std::vector<T> out = random_normal<T>(shape.rows * shape.ld, 3);
      const std::vector<T> before = out;
      std::vector<float> rstd(static_cast<size_t>(shape.rows));
      rms_norm(out.data(), shape.ld, rstd.data(), x.data(), shape.ld, weight.data(), shape.rows, shape.dim, kEpsilon);
      expect_near(slice(out, shape), reference(to_double(slice(x, shape)), to_double(weight), shape.rows),
                  kTolerance<T>, 0.0);
      for (int64_t i = 0; i < shape.rows * shape.ld; ++i) {
        const auto at = static_cast<size_t>(i);
        if (i % shape.ld >= shape.dim) {
          ASSERT_EQ(to_float(out[at]), to_float(before[at]));
        }
      }
      std::vector<T> in_place = x;
      rms_norm(in_place.data(), shape.ld, nullptr, in_place.data(), shape.ld, weight.data(), shape.rows, shape.dim,
               kEpsilon);
      expect_same_bits(slice(in_place, shape), slice(out, shape));
    }
  });
}

TYPED_TEST(RmsNorm, OneRowAloneGivesTheSameBitsAsAmongMany) {
  using T = TypeParam;
  const int64_t rows = 300, dim = 257;
  const auto x = random_normal<T>(rows * dim, 4);
  const auto weight = random_normal<float>(dim, 5);
  expect_independent_of_threads([&] {
    std::vector<T> out(x.size());
    rms_norm(out.data(), dim, nullptr, x.data(), dim, weight.data(), rows, dim, kEpsilon);
    return out;
  });
  std::vector<T> all(x.size()), alone(static_cast<size_t>(dim));
  rms_norm(all.data(), dim, nullptr, x.data(), dim, weight.data(), rows, dim, kEpsilon);
  rms_norm(alone.data(), dim, nullptr, x.data() + 123 * dim, dim, weight.data(), 1, dim, kEpsilon);
  expect_same_bits(alone, std::vector<T>(all.begin() + 123 * dim, all.begin() + 124 * dim));
}

TYPED_TEST(RmsNorm, FusedAdditionEqualsAdditionThenNorm) {
  using T = TypeParam;
  on_each_instruction_set([] {
    for (const Shape shape : kShapes) {
      const int64_t n = shape.rows * shape.dim;
      const auto a = random_normal<T>(n, 6), b = random_normal<T>(n, 7);
      const auto weight = random_normal<float>(shape.dim, 8);
      std::vector<T> expected_sum;
      for (size_t i = 0; i < a.size(); ++i) expected_sum.push_back(rounded<T>(to_float(a[i]) + to_float(b[i])));
      std::vector<T> expected(a.size()), sum(a.size()), normed(a.size());
      std::vector<float> expected_rstd(static_cast<size_t>(shape.rows)), rstd(expected_rstd);
      rms_norm(expected.data(), shape.dim, expected_rstd.data(), expected_sum.data(), shape.dim, weight.data(),
               shape.rows, shape.dim, kEpsilon);
      add_rms_norm(sum.data(), normed.data(), rstd.data(), a.data(), b.data(), weight.data(), shape.rows, shape.dim,
                   kEpsilon);
      expect_same_bits(sum, expected_sum);
      expect_same_bits(normed, expected);
      expect_same_bits(rstd, expected_rstd);
      std::vector<T> in_place = a;
      add_rms_norm(in_place.data(), normed.data(), nullptr, in_place.data(), b.data(), weight.data(), shape.rows,
                   shape.dim, kEpsilon);
      expect_same_bits(in_place, expected_sum);
      expect_same_bits(normed, expected);
    }
  });
}

TEST(RmsNormReference, GradientsMatchCentralDifferences) {
  const int64_t rows = 3, dim = 9;
  const auto x = to_double(random_normal<float>(rows * dim, 9));
  const auto weight = to_double(random_normal<float>(dim, 10));
  const auto d_out = to_double(random_normal<float>(rows * dim, 11));
  const auto objective = [&](const std::vector<double>& at_x, const std::vector<double>& at_weight) {
    const auto out = reference(at_x, at_weight, rows);
    double sum = 0.0;
    for (size_t i = 0; i < out.size(); ++i) sum += d_out[i] * out[i];
    return sum;
  };
  const Gradients gradients = reference_gradients(d_out, x, weight, rows);
  expect_near(gradients.x, central_differences([&](const auto& at) { return objective(at, weight); }, x), 1e-6, 1.0);
  expect_near(gradients.weight, central_differences([&](const auto& at) { return objective(x, at); }, weight), 1e-6,
              1.0);
}

TYPED_TEST(RmsNorm, BackwardMatchesTheReference) {
  using T = TypeParam;
  on_each_instruction_set([] {
    for (const Shape shape : kShapes) {
      const auto x = random_normal<T>(shape.rows * shape.ld, 12, 2.0);
      const auto d_out = random_normal<T>(shape.rows * shape.ld, 13);
      const auto weight = random_normal<float>(shape.dim, 14);
      const Gradients expected = reference_gradients(to_double(slice(d_out, shape)), to_double(slice(x, shape)),
                                                     to_double(weight), shape.rows);
      std::vector<T> out(x.size());
      std::vector<float> rstd(static_cast<size_t>(shape.rows));
      rms_norm(out.data(), shape.ld, rstd.data(), x.data(), shape.ld, weight.data(), shape.rows, shape.dim, kEpsilon);

      std::vector<T> d_x(x.size());
      rms_norm_backward_input(d_x.data(), shape.ld, d_out.data(), shape.ld, x.data(), shape.ld, rstd.data(),
                              weight.data(), shape.rows, shape.dim, false);
      expect_near(slice(d_x, shape), expected.x, kTolerance<T>, 1.0);

      std::vector<T> sum = random_normal<T>(shape.rows * shape.ld, 15);
      auto expected_sum = to_double(slice(sum, shape));
      for (size_t i = 0; i < expected_sum.size(); ++i) expected_sum[i] += expected.x[i];
      rms_norm_backward_input(sum.data(), shape.ld, d_out.data(), shape.ld, x.data(), shape.ld, rstd.data(),
                              weight.data(), shape.rows, shape.dim, true);
      expect_near(slice(sum, shape), expected_sum, kTolerance<T>, 1.0);

      auto d_weight = random_normal<float>(shape.dim, 16);
      auto expected_weight = to_double(d_weight);
      for (size_t i = 0; i < expected_weight.size(); ++i) expected_weight[i] += expected.weight[i];
      std::vector<float> workspace(static_cast<size_t>(rms_norm_backward_weight_workspace(shape.rows, shape.dim)));
      rms_norm_backward_weight(d_weight.data(), d_out.data(), shape.ld, x.data(), shape.ld, rstd.data(), shape.rows,
                               shape.dim, workspace.data());
      // Inputs are exact and the sum is float for both types; terms are of order 1.
      expect_near(d_weight, expected_weight, 2e-6, std::sqrt(static_cast<double>(shape.rows)));
    }
  });
}

TYPED_TEST(RmsNorm, BackwardDoesNotDependOnThreads) {
  using T = TypeParam;
  const int64_t rows = 5000, dim = 70;
  const auto x = random_normal<T>(rows * dim, 17), d_out = random_normal<T>(rows * dim, 18);
  const auto weight = random_normal<float>(dim, 19);
  const auto rstd = random_normal<float>(rows, 20);
  expect_independent_of_threads([&] {
    std::vector<T> d_x(x.size());
    rms_norm_backward_input(d_x.data(), dim, d_out.data(), dim, x.data(), dim, rstd.data(), weight.data(), rows, dim,
                            false);
    return d_x;
  });
  expect_independent_of_threads([&] {
    std::vector<float> d_weight(static_cast<size_t>(dim));
    std::vector<float> workspace(static_cast<size_t>(rms_norm_backward_weight_workspace(rows, dim)));
    rms_norm_backward_weight(d_weight.data(), d_out.data(), dim, x.data(), dim, rstd.data(), rows, dim,
                             workspace.data());
    return d_weight;
  });
}

TYPED_TEST(RmsNorm, EmptyWorkTouchesNothing) {
  using T = TypeParam;
  T* none = nullptr;
  rms_norm(none, 0, nullptr, none, 0, nullptr, 0, 8, kEpsilon);
  add_rms_norm(none, none, nullptr, none, none, nullptr, 0, 8, kEpsilon);
  rms_norm_backward_input(none, 0, none, 0, none, 0, nullptr, nullptr, 0, 8, true);
  EXPECT_EQ(rms_norm_backward_weight_workspace(0, 8), 0);
  float d_weight[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  rms_norm_backward_weight(d_weight, none, 0, none, 0, nullptr, 0, 8, nullptr);
  EXPECT_EQ(d_weight[0], 1.0f);
  EXPECT_EQ(d_weight[7], 8.0f);
}

}  // namespace
}  // namespace deeptitan::cpu
