#include "train/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace deeptitan {

LearningRateSchedule::LearningRateSchedule(const RunConfig& config)
    : peak_(config.optimizer.lr),
      floor_(config.lr_scheduler.lr_min),
      decay_type_(config.lr_scheduler.decay_type),
      warmup_steps_(std::min(config.lr_scheduler.warmup_steps, config.training.steps)),
      steps_(config.training.steps),
      decay_steps_(0) {
  if (decay_type_ == DecayType::kConstant) return;
  const double asked = config.lr_scheduler.decay_ratio * static_cast<double>(steps_);
  decay_steps_ = std::min<int64_t>(std::llround(asked), steps_ - warmup_steps_);
}

double LearningRateSchedule::at(int64_t step) const {
  DT_CHECK(step >= 1, "learning rate of step {}; steps count from 1", step);
  step = std::min(step, steps_);
  if (step <= warmup_steps_) return peak_ * static_cast<double>(step) / static_cast<double>(warmup_steps_);
  const int64_t into_decay = step - (steps_ - decay_steps_);
  if (into_decay <= 0) return peak_;
  const double x = static_cast<double>(into_decay) / static_cast<double>(decay_steps_);
  double height = 1.0;
  switch (decay_type_) {
    case DecayType::kConstant:
      break;
    case DecayType::kLinear:
      height = 1.0 - x;
      break;
    case DecayType::kCosine:
      height = 0.5 * (1.0 + std::cos(std::numbers::pi * x));
      break;
    case DecayType::kSqrt:
      height = 1.0 - std::sqrt(x);
      break;
  }
  return peak_ * (floor_ + (1.0 - floor_) * height);
}

}  // namespace deeptitan
