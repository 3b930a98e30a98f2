#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>
#include <hwy/targets.h>
#include <omp.h>

#include "core/bfloat16.h"
#include "support/compare.h"

// What the tests of the vectorised kernels share: values, comparison with a reference in double, and running a test
// under every instruction set and number of threads that may not change (or may barely change) its result.

namespace deeptitan::cpu {

using ElementTypes = ::testing::Types<float, bfloat16>;
using deeptitan::testing::random_normal;
using deeptitan::testing::rounded;
using deeptitan::testing::to_double;

template <typename T>
double as_double(T value) {
  return static_cast<double>(to_float(value));
}

/// Relative error of a result that is computed in float and rounded once to T: 2^-8 is half a unit in bfloat16's last
/// place; float sums over a row of up to a few thousand terms keep 2e-6.
template <typename T>
constexpr double kTolerance = std::is_same_v<T, float> ? 2e-6 : 0x1p-8 + 1e-5;

/// |actual - expected| <= tolerance * (|expected| + scale), element by element.
template <typename T>
void expect_near(const std::vector<T>& actual, const std::vector<double>& expected, double tolerance, double scale) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(as_double(actual[i]), expected[i], tolerance * (std::abs(expected[i]) + scale)) << "element " << i;
  }
}

template <typename T>
void expect_same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::memcmp(&a[i], &b[i], sizeof(T)), 0)
        << "element " << i << ": " << to_float(a[i]) << " and " << to_float(b[i]);
  }
}

/// Runs `test` with AVX2 alone and with all that this machine has.
template <typename Test>
void on_each_instruction_set(Test test) {
  for (const int64_t targets : {int64_t{HWY_AVX2}, int64_t{0}}) {
    SCOPED_TRACE(targets == 0 ? "best instruction set" : "AVX2");
    hwy::SetSupportedTargetsForTest(targets);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    test();
  }
}

/// Runs `compute` (which returns a vector) with one thread and with several: the bits must be the same.
template <typename Compute>
void expect_independent_of_threads(Compute compute) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto alone = compute();
  for (const int threads : {2, 3, 7}) {
    SCOPED_TRACE(threads);
    omp_set_num_threads(threads);
    expect_same_bits(compute(), alone);
  }
  omp_set_num_threads(before);
}

/// d f / d x by central differences, f a function of a vector of double.
template <typename Function>
std::vector<double> central_differences(Function f, std::vector<double> x, double step = 1e-4) {
  std::vector<double> gradient;
  for (size_t i = 0; i < x.size(); ++i) {
    const double kept = x[i];
    x[i] = kept + step;
    const double above = f(x);
    x[i] = kept - step;
    const double below = f(x);
    x[i] = kept;
    gradient.push_back((above - below) / (2 * step));
  }
  return gradient;
}

}  // namespace deeptitan::cpu
