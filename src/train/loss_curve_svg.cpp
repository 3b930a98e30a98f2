#include <cmath>

#include <fmt/format.h>

#include "train/loss_curve.h"
#include "train/loss_curve_frame.h"

namespace deeptitan {

namespace {

constexpr double kWidth = 860, kHeight = 480;
constexpr double kLeft = 64, kRight = 24, kTop = 56, kBottom = 56;
constexpr size_t kMostPoints = 1000;  // of a line; more would not be seen
constexpr size_t kMostDots = 200;

constexpr std::string_view kStyle = R"(<style>
  text { font: 13px system-ui, sans-serif; fill: #6b7785 }
  .ground { fill: #ffffff }
  .title { font-size: 16px; font-weight: 600; fill: #1f2933 }
  .grid { stroke: #e4e8ec; stroke-width: 1 }
  .line { fill: none; stroke-linejoin: round; stroke-linecap: round }
  .each { stroke: #2563c9; stroke-width: 1; opacity: .28 }
  .mean { stroke: #2563c9; stroke-width: 2.25 }
  .validation { stroke: #d9480f; stroke-width: 1.5; stroke-dasharray: 1 5 }
  .dot { fill: #ffffff; stroke: #d9480f; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #98a4b1 }
    .ground { fill: #14181d }
    .title { fill: #e8ecf0 }
    .grid { stroke: #2a3138 }
    .each, .mean { stroke: #6ea8fe }
    .validation { stroke: #ff9f5a }
    .dot { fill: #14181d; stroke: #ff9f5a }
  }
</style>
)";

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

class Plot {
 public:
  explicit Plot(const LossCurve& curve) : frame_(frame_of(curve)) {}

  const LossCurveFrame& frame() const { return frame_; }
  double x(int64_t step) const { return kLeft + frame_.x(step) * (kWidth - kLeft - kRight); }
  double y(double loss) const { return kHeight - kBottom - frame_.y(loss) * (kHeight - kTop - kBottom); }

  /// A line through the points; of many, every n-th and the last.
  std::string line(const std::vector<LossCurve::Point>& points, std::string_view kind) const {
    if (points.size() < 2) return "";
    std::string coordinates;
    const size_t stride = (points.size() + kMostPoints - 1) / kMostPoints;
    for (size_t i = 0; i < points.size(); i += stride) {
      coordinates += fmt::format("{:.1f},{:.1f} ", x(points[i].step), y(points[i].loss));
    }
    coordinates += fmt::format("{:.1f},{:.1f}", x(points.back().step), y(points.back().loss));
    return fmt::format("<polyline class=\"line {}\" points=\"{}\"/>\n", kind, coordinates);
  }

  std::string axes() const {
    std::string text;
    for (const double tick : axis_ticks(frame_.low, frame_.high, 6)) {
      text += fmt::format("<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kLeft,
                          kWidth - kRight, y(tick), y(tick));
      text += fmt::format("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:.4g}</text>\n", kLeft - 10, y(tick) + 4.5,
                          tick);
    }
    for (const double tick : axis_ticks(frame_.first_step, frame_.last_step, 8)) {
      const auto step = static_cast<int64_t>(std::llround(tick));
      if (static_cast<double>(step) != tick) continue;  // a short run has ticks between steps
      text += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", x(step),
                          kHeight - kBottom + 22, step);
    }
    text += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">step</text>\n",
                        (kLeft + kWidth - kRight) / 2, kHeight - 12);
    text +=
        fmt::format("<text transform=\"translate(16 {:.1f}) rotate(-90)\" text-anchor=\"middle\">nats a token</text>\n",
                    (kTop + kHeight - kBottom) / 2);
    return text;
  }

 private:
  LossCurveFrame frame_;
};

std::string legend(const LossCurve& curve) {
  const double y = 28;
  double right = kWidth - kRight;
  std::string text;
  if (!curve.validation.empty()) {
    const std::string label = fmt::format("validation {:.4g}", curve.validation.back().loss);
    text += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", right, y, label);
    right -= 7.2 * static_cast<double>(label.size()) + 10;
    text += fmt::format("<circle class=\"dot\" cx=\"{:.1f}\" cy=\"{}\" r=\"4\"/>\n", right, y - 4.5);
    right -= 24;
  }
  const std::string label = fmt::format("training {:.4g}", frame_of(curve).mean.back().loss);
  text += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", right, y, label);
  right -= 7.2 * static_cast<double>(label.size()) + 6;
  text += fmt::format("<line class=\"mean\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{}\" y2=\"{}\"/>\n", right - 20, right,
                      y - 4.5, y - 4.5);
  return text;
}

}  // namespace

std::string render_loss_svg(const LossCurve& curve, std::string_view title) {
  std::string text = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" width=\"{}\" height=\"{}\" role=\"img\" "
      "aria-label=\"{}\">\n",
      kWidth, kHeight, kWidth, kHeight, "Loss by step");
  text += kStyle;
  text += fmt::format("<rect width=\"{}\" height=\"{}\" class=\"ground\"/>\n", kWidth, kHeight);
  text += fmt::format("<text class=\"title\" x=\"{}\" y=\"28\">{}</text>\n", kLeft, escaped(title));
  if (curve.training.empty()) {
    text +=
        fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">no steps yet</text>\n", kWidth / 2, kHeight / 2);
    return text + "</svg>\n";
  }
  const Plot plot(curve);
  text += plot.axes();
  text += plot.line(curve.training, "each");
  text += plot.line(plot.frame().mean, "mean");
  text += plot.line(curve.validation, "validation");
  const size_t dot_stride = (curve.validation.size() + kMostDots - 1) / kMostDots;
  for (size_t i = 0; i < curve.validation.size(); i += dot_stride) {
    const LossCurve::Point& point = curve.validation[i];
    text += fmt::format(
        "<circle class=\"dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\"><title>step {}: {:.4f}</title></circle>\n",
        plot.x(point.step), plot.y(point.loss), point.step, point.loss);
  }
  return text + legend(curve) + "</svg>\n";
}

}  // namespace deeptitan
