#pragma once

#include <cstdint>

#include "config/run_config.h"

namespace deeptitan {

/// The learning rate of a step, a pure function of the run's configuration.
///
/// It rises linearly over warmup_steps to optimizer.lr, stays, and falls in the last decay_ratio of the steps (all that
/// follow warm-up at most) to lr_min * optimizer.lr. With x the part of the fall that is behind the step, from 0 to 1:
/// linear 1 - x, cosine (1 + cos(pi x)) / 2, sqrt 1 - sqrt(x), scaled from 1 .. 0 to 1 .. lr_min.
class LearningRateSchedule {
 public:
  explicit LearningRateSchedule(const RunConfig& config);

  /// Of step `step`, counted from 1; past the last step it stays where it ended. Throws Error for a step below 1.
  double at(int64_t step) const;

 private:
  double peak_;
  double floor_;  // as a part of peak_
  DecayType decay_type_;
  int64_t warmup_steps_;
  int64_t steps_;
  int64_t decay_steps_;
};

}  // namespace deeptitan
