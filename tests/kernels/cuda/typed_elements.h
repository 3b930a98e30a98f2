#pragma once

// What the tests over element types share: random elements, and how far apart two results are.

#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

#include "core/bfloat16.h"
#include "core/random.h"
#include "kernels/cuda/device_buffer.h"

namespace deeptitan::cuda {

/// n elements from a normal distribution.
template <typename T>
std::vector<T> random_elements(int64_t n, uint64_t key, float stddev = 1.0f) {
  std::vector<float> values(n);
  fill_normal(values.data(), values.size(), key, stddev);
  if constexpr (std::is_same_v<T, float>) {
    return values;
  } else {
    std::vector<T> rounded(n);
    for (int64_t i = 0; i < n; ++i) rounded[i] = to_bfloat16(values[i]);
    return rounded;
  }
}

/// ||a - b|| / ||b||; NaN where either holds one.
template <typename T>
double relative_difference(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return NAN;
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = to_float(a[i]), y = to_float(b[i]);
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  return norm == 0.0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

/// How far results of one arithmetic in two orders of sums may lie apart: a few roundings of fp32, or, since a bf16 may
/// fall to the other side of a tie, of bf16 (2^-9 each, and rarely).
template <typename T>
constexpr double kOrderOfSums = std::is_same_v<T, float> ? 2e-6 : 2e-3;

using ElementTypes = testing::Types<float, bfloat16>;

struct ElementName {
  template <typename T>
  static std::string GetName(int) {
    return std::is_same_v<T, float> ? "f32" : "bf16";
  }
};

template <typename T>
class OverElementTypes : public testing::Test {
 protected:
  void SetUp() override { DT_SKIP_WITHOUT_GPU(); }
};

}  // namespace deeptitan::cuda
