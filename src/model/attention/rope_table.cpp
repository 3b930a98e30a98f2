#include "model/attention/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/transfer.h"

namespace deeptitan {
namespace {

// YaRN's attention temperature, as a factor: 0.1 * m * ln(scale) + 1.
double yarn_mscale(double scale, double m) {
  return scale <= 1.0 ? 1.0 : 0.1 * m * std::log(scale) + 1.0;
}

// The (fractional) pair of dimensions that makes `rotations` turns over the length trained at.
double correction_dim(double rotations, int64_t dim, double theta, int64_t length) {
  return static_cast<double>(dim) * std::log(static_cast<double>(length) / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(theta));
}

std::vector<double> frequencies(const ModelConfig& config, int64_t length) {
  const RopeConfig& rope = config.rope;
  const int64_t dim = config.qk_rope_head_dim;
  const int64_t original = config.rope_original_length();
  double theta = rope.theta;
  if (rope.kind == RopeKind::kDynamic && length > original) {
    const double ratio =
        rope.factor * static_cast<double>(length) / static_cast<double>(original) - (rope.factor - 1.0);
    theta *= std::pow(ratio, static_cast<double>(dim) / static_cast<double>(dim - 2));
  }
  std::vector<double> result(dim / 2);
  for (int64_t i = 0; i < dim / 2; ++i) {
    result[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
    if (rope.kind == RopeKind::kLinear) result[i] /= rope.factor;
  }
  if (rope.kind == RopeKind::kYarn) {
    const double low = std::max(0.0, std::floor(correction_dim(rope.beta_fast, dim, theta, original)));
    double high =
        std::min(static_cast<double>(dim - 1), std::ceil(correction_dim(rope.beta_slow, dim, theta, original)));
    if (low == high) high += 0.001;  // the ramp must not divide by zero
    for (int64_t i = 0; i < dim / 2; ++i) {
      const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      result[i] = result[i] / rope.factor * ramp + result[i] * (1.0 - ramp);
    }
  }
  return result;
}

}  // namespace

RopeTable::RopeTable(const ModelConfig& config, int64_t positions) : config_(config), positions_(positions) {}

void RopeTable::plan(Arena& arena) {
  cos_ = arena.take(DType::kF32, {positions_, config_.qk_rope_head_dim / 2});
  sin_ = arena.take(DType::kF32, {positions_, config_.qk_rope_head_dim / 2});
}

void RopeTable::fill(int64_t length) {
  const int64_t used = config_.rope.kind == RopeKind::kDynamic ? std::max(length, config_.rope_original_length()) : 0;
  if (used == filled_length_) return;
  filled_length_ = used;
  const std::vector<double> frequency = frequencies(config_, used);
  double factor = 1.0;
  if (config_.rope.kind == RopeKind::kYarn) {
    factor = yarn_mscale(config_.rope.factor, config_.rope.mscale) /
             yarn_mscale(config_.rope.factor, config_.rope.mscale_all_dim);
  }
  const int64_t half = config_.qk_rope_head_dim / 2;
  std::vector<float> cos(positions_ * half), sin(positions_ * half);
  for (int64_t p = 0; p < positions_; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      // Angles as the reference forms them: frequency and product rounded to fp32.
      const float angle = static_cast<float>(p) * static_cast<float>(frequency[i]);
      cos[p * half + i] = static_cast<float>(std::cos(static_cast<double>(angle)) * factor);
      sin[p * half + i] = static_cast<float>(std::sin(static_cast<double>(angle)) * factor);
    }
  }
  copy_tensor(cos_, Tensor(cos.data(), DType::kF32, {positions_, half}));
  copy_tensor(sin_, Tensor(sin.data(), DType::kF32, {positions_, half}));
}

double RopeTable::softmax_scale(const ModelConfig& config) {
  double scale = 1.0 / std::sqrt(static_cast<double>(config.qk_head_dim()));
  if (config.rope.kind != RopeKind::kPlain && config.rope.mscale_all_dim != 0.0) {
    const double m = yarn_mscale(config.rope.factor, config.rope.mscale_all_dim);
    scale *= m * m;
  }
  return scale;
}

}  // namespace deeptitan
