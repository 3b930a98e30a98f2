#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace deeptitan {

/// A run's losses by step.
struct LossCurve {
  struct Point {
    int64_t step;
    double loss;  // nats a token
  };
  std::vector<Point> training;
  std::vector<Point> validation;
};

/// The losses in a metrics.jsonl; lines without a finite loss are left out. Throws Error where it cannot be read.
LossCurve read_loss_curve(const std::filesystem::path& metrics_path);

/// Each point's mean over the `width` points around it, fewer at the ends.
std::vector<LossCurve::Point> smoothed(const std::vector<LossCurve::Point>& points, size_t width);

/// Round numbers, 1, 2 or 5 times a power of ten apart, about `count` of them inside [low, high].
std::vector<double> axis_ticks(double low, double high, int count);

/// The curve as text of `columns` by `rows` characters: training in braille dots (two by four a character), validation
/// points as "o", with both axes. Empty where there are fewer than two training points.
std::string render_loss_terminal(const LossCurve& curve, int columns, int rows);

/// The curve as an SVG: training light, its mean over neighbouring steps in front, validation as points on a line. It
/// has no script and follows the viewer's light or dark colours.
std::string render_loss_svg(const LossCurve& curve, std::string_view title);

}  // namespace deeptitan
