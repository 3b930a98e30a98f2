#pragma once

#include <algorithm>

#include "train/loss_curve.h"

namespace deeptitan {

/// The part of the plane that a plot of a curve shows, and the mean line in it.
struct LossCurveFrame {
  double first_step = 0, last_step = 1;
  double low = 0, high = 1;
  std::vector<LossCurve::Point> mean;

  /// 0 at the left edge, 1 at the right.
  double x(int64_t step) const { return (static_cast<double>(step) - first_step) / (last_step - first_step); }
  /// 0 at the lower edge, 1 at the upper; outside losses stay on the edge.
  double y(double loss) const { return std::clamp((loss - low) / (high - low), 0.0, 1.0); }
};

/// Around all points, with a margin above and below.
LossCurveFrame frame_of(const LossCurve& curve);

}  // namespace deeptitan
