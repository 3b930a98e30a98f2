#pragma once

#include "config/model_config.h"
#include "core/arena.h"
#include "core/tensor.h"

namespace deeptitan {

/// The tables of rotary position embedding: cos and sin of position * frequency, [positions, rope_dim / 2], for plain
/// RoPE (Su et al. 2021), linear scaling, dynamic NTK, and YaRN (Peng et al. 2023, section 3.4: the ramp between
/// interpolated and extrapolated frequencies, and the factor mscale on cos and sin).
class RopeTable {
 public:
  RopeTable(const ModelConfig& config, int64_t positions);

  /// Takes the tables' memory.
  void plan(Arena& arena);
  /// Computes the tables. For dynamic NTK, whose frequencies depend on the length in use, call it again with a batch's
  /// longest length; the other kinds ignore `length`, and nothing is computed twice.
  void fill(int64_t length);

  const Tensor& cos() const { return cos_; }
  const Tensor& sin() const { return sin_; }

  /// What the scores are multiplied by before the softmax: 1 / sqrt(head dim), times, where positions are
  /// stretched and mscale_all_dim is given, (0.1 mscale_all_dim ln(factor) + 1) squared: YaRN's temperature, which
  /// DeepSeek's modeling_deepseek.py applies to every kind of rope_scaling.
  static double softmax_scale(const ModelConfig& config);

 private:
  ModelConfig config_;
  int64_t positions_;
  int64_t filled_length_ = -1;
  Tensor cos_;
  Tensor sin_;
};

}  // namespace deeptitan
