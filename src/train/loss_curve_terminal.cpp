#include <array>
#include <cmath>

#include <fmt/format.h>

#include "train/loss_curve.h"
#include "train/loss_curve_frame.h"

namespace deeptitan {

namespace {

constexpr int kLabelColumns = 7;

/// Dots, two by four a character, as Unicode's braille patterns (U+2800 to U+28FF), and characters over them.
class BrailleCanvas {
 public:
  BrailleCanvas(int columns, int rows)
      : columns_(columns), rows_(rows), cells_(static_cast<size_t>(columns * rows)), marks_(cells_.size()) {}

  int dot_columns() const { return 2 * columns_; }
  int dot_rows() const { return 4 * rows_; }

  /// Dot (x, y) from the upper left corner.
  void set(int x, int y) {
    // Bits of a braille pattern: the left column's dots are 0, 1, 2, 6 from above, the right one's 3, 4, 5, 7.
    static constexpr std::array<std::array<uint8_t, 2>, 4> kBits = {
        {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}}};
    cells_[cell(x, y)] |= kBits[static_cast<size_t>(y % 4)][static_cast<size_t>(x % 2)];
  }
  void mark(int x, int y) { marks_[cell(x, y)] = true; }

  std::string row(int row) const {
    std::string text;
    for (int column = 0; column < columns_; ++column) {
      const auto at = static_cast<size_t>(row) * static_cast<size_t>(columns_) + static_cast<size_t>(column);
      if (marks_[at]) {
        text += 'o';
      } else if (cells_[at] == 0) {
        text += ' ';
      } else {  // U+2800 + bits, in three bytes of UTF-8
        text += '\xE2';
        text += static_cast<char>(0xA0 | cells_[at] >> 6);
        text += static_cast<char>(0x80 | (cells_[at] & 0x3F));
      }
    }
    return text;
  }

 private:
  size_t cell(int x, int y) const {
    return static_cast<size_t>(y / 4) * static_cast<size_t>(columns_) + static_cast<size_t>(x / 2);
  }

  int columns_, rows_;
  std::vector<uint8_t> cells_;
  std::vector<bool> marks_;
};

int dot_x(const LossCurveFrame& frame, const BrailleCanvas& canvas, int64_t step) {
  return static_cast<int>(std::lround(frame.x(step) * (canvas.dot_columns() - 1)));
}
int dot_y(const LossCurveFrame& frame, const BrailleCanvas& canvas, double loss) {
  return static_cast<int>(std::lround((1 - frame.y(loss)) * (canvas.dot_rows() - 1)));
}

/// The mean line, without gaps: each column of dots is filled between neighbouring heights.
void draw_mean(const LossCurveFrame& frame, BrailleCanvas& canvas) {
  for (size_t i = 0; i + 1 < frame.mean.size(); ++i) {
    const int x0 = dot_x(frame, canvas, frame.mean[i].step), x1 = dot_x(frame, canvas, frame.mean[i + 1].step);
    const int y0 = dot_y(frame, canvas, frame.mean[i].loss), y1 = dot_y(frame, canvas, frame.mean[i + 1].loss);
    const int steps = std::max({1, std::abs(x1 - x0), std::abs(y1 - y0)});
    for (int s = 0; s <= steps; ++s) {
      canvas.set(x0 + static_cast<int>(std::lround(static_cast<double>((x1 - x0) * s) / steps)),
                 y0 + static_cast<int>(std::lround(static_cast<double>((y1 - y0) * s) / steps)));
    }
  }
}

}  // namespace

std::string render_loss_terminal(const LossCurve& curve, int columns, int rows) {
  const int plot_columns = columns - kLabelColumns - 1, plot_rows = rows - 2;
  if (curve.training.size() < 2 || plot_columns < 10 || plot_rows < 3) return "";
  const LossCurveFrame frame = frame_of(curve);
  BrailleCanvas canvas(plot_columns, plot_rows);
  draw_mean(frame, canvas);
  for (const LossCurve::Point& point : curve.validation) {
    canvas.mark(dot_x(frame, canvas, point.step), dot_y(frame, canvas, point.loss));
  }
  std::vector<std::string> labels(static_cast<size_t>(plot_rows));
  for (const double tick : axis_ticks(frame.low, frame.high, std::max(2, plot_rows / 3))) {
    labels[static_cast<size_t>(dot_y(frame, canvas, tick) / 4)] = fmt::format("{:.4g}", tick);
  }
  std::string text;
  for (int row = 0; row < plot_rows; ++row) {
    const std::string& label = labels[static_cast<size_t>(row)];
    text += fmt::format("{:>{}} {}{}\n", label, kLabelColumns - 1, label.empty() ? "│" : "┤", canvas.row(row));
  }
  text += fmt::format("{:>{}} └", "", kLabelColumns - 1);
  for (int column = 0; column < plot_columns; ++column) text += "─";
  const std::string legend = curve.validation.empty() ? "loss (nats a token)" : "loss (nats a token), o validation";
  const std::string last = fmt::format("step {}", curve.training.back().step);
  const int gap = plot_columns - static_cast<int>(legend.size() + last.size());
  text += fmt::format("\n{:>{}}{}{:>{}}{}\n", "", kLabelColumns + 1, legend, "", std::max(gap, 1), last);
  return text;
}

}  // namespace deeptitan
