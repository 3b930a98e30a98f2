#include "train/loss_curve_frame.h"

namespace deeptitan {

LossCurveFrame frame_of(const LossCurve& curve) {
  LossCurveFrame frame;
  if (curve.training.empty()) return frame;
  frame.mean = smoothed(curve.training, curve.training.size() / 40);
  frame.first_step = 0;
  frame.last_step = static_cast<double>(std::max<int64_t>(curve.training.back().step, 1));
  frame.low = frame.high = curve.training.front().loss;
  for (const auto* points : {&curve.training, &curve.validation}) {
    for (const LossCurve::Point& point : *points) {
      frame.low = std::min(frame.low, point.loss);
      frame.high = std::max(frame.high, point.loss);
    }
  }
  const double margin = std::max(0.03 * (frame.high - frame.low), 1e-6);
  frame.low -= margin;
  frame.high += margin;
  return frame;
}

}  // namespace deeptitan
