#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "core/bfloat16.h"

// What every numeric test needs: reproducible inputs and the distance between two tensors.

namespace deeptitan::testing {

inline void assign(float& out, double value) {
  out = static_cast<float>(value);
}
inline void assign(bfloat16& out, double value) {
  out = to_bfloat16(static_cast<float>(value));
}
inline void assign(double& out, double value) {
  out = value;
}

template <typename T>
T rounded(double value) {
  T result;
  assign(result, value);
  return result;
}

/// n values from a normal distribution, rounded to T.
template <typename T>
std::vector<T> random_normal(int64_t n, uint32_t seed, double deviation = 1.0) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal(0.0, deviation);
  std::vector<T> values(n);
  for (T& value : values) assign(value, normal(engine));
  return values;
}

template <typename T>
std::vector<double> to_double(const std::vector<T>& values) {
  std::vector<double> result;
  result.reserve(values.size());
  for (const T& value : values) result.push_back(static_cast<double>(to_float(value)));
  return result;
}
inline std::vector<double> to_double(const std::vector<double>& values) {
  return values;
}

/// ||a - b|| / ||b|| over the whole tensor; 0 when both are zero.
template <typename A, typename B>
double relative_error(const std::vector<A>& a, const std::vector<B>& b) {
  const std::vector<double> left = to_double(a);
  const std::vector<double> right = to_double(b);
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < right.size(); ++i) {
    difference += (left[i] - right[i]) * (left[i] - right[i]);
    norm += right[i] * right[i];
  }
  if (left.size() != right.size()) return INFINITY;
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

/// The tolerance for a tensor of T computed with fp32 accumulation from exact inputs: fp32 rounds 2^-24 relative a few
/// hundred times at random, bf16 rounds the result (and probabilities in attention) once to 2^-9.
template <typename T>
constexpr double rounding_tolerance() {
  return sizeof(T) == 4 ? 2e-6 : 6e-3;
}

}  // namespace deeptitan::testing
