#include "train/loss_curve.h"

#include <cmath>

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

TEST(Smoothed, IsTheMeanAroundEachPoint) {
  const std::vector<LossCurve::Point> points = {{1, 1}, {2, 2}, {3, 6}, {4, 1}, {5, 0}};
  const auto mean = smoothed(points, 3);
  ASSERT_EQ(mean.size(), 5u);
  EXPECT_DOUBLE_EQ(mean[0].loss, 1.5);
  EXPECT_DOUBLE_EQ(mean[1].loss, 3);
  EXPECT_DOUBLE_EQ(mean[3].loss, 7.0 / 3);
  EXPECT_DOUBLE_EQ(mean[4].loss, 0.5);
  EXPECT_EQ(mean[4].step, 5);
  EXPECT_DOUBLE_EQ(smoothed(points, 100)[4].loss, 2);  // no wider than there are points
  EXPECT_TRUE(smoothed({}, 3).empty());
}

TEST(AxisTicks, AreRoundAndInside) {
  EXPECT_EQ(axis_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(axis_ticks(1.1, 8.9, 4), (std::vector<double>{2, 4, 6, 8}));
  EXPECT_EQ(axis_ticks(-3, 3, 3), (std::vector<double>{-2, 0, 2}));
  for (const double high : {1e-6, 0.3, 7.0, 123456.0}) {
    const std::vector<double> ticks = axis_ticks(0, high, 6);
    EXPECT_GE(ticks.size(), 3u) << high;
    EXPECT_LE(ticks.size(), 10u) << high;
    EXPECT_LE(ticks.back(), high * (1 + 1e-9));
  }
}

LossCurve falling(int64_t steps) {
  LossCurve curve;
  for (int64_t step = 1; step <= steps; ++step) {
    curve.training.push_back({step, 2 + 6 * std::exp(-static_cast<double>(step) / 40) + 0.2 * std::sin(step * 7.0)});
    if (step % 50 == 0) curve.validation.push_back({step, 2.2 + 6 * std::exp(-static_cast<double>(step) / 40)});
  }
  return curve;
}

TEST(RenderLossTerminal, DrawsWithinItsSize) {
  const std::string text = render_loss_terminal(falling(300), 70, 14);
  std::vector<size_t> widths(1, 0);
  for (const char c : text) {
    if (c == '\n') {
      widths.push_back(0);
    } else if ((c & 0xC0) != 0x80) {  // bytes that begin a character
      ++widths.back();
    }
  }
  widths.pop_back();
  ASSERT_EQ(widths.size(), 14u);
  for (const size_t width : widths) EXPECT_LE(width, 70u);
  EXPECT_NE(text.find("o validation"), std::string::npos);
  EXPECT_NE(text.find("step 300"), std::string::npos);
}

TEST(RenderLossTerminal, ALineFromCornerToCorner) {
  LossCurve curve;
  curve.training = {{0, 2.0}, {10, 1.0}};
  EXPECT_EQ(render_loss_terminal(curve, 20, 5),
            "     2 ┤⠉⠒⠤⣀        \n"
            "   1.5 ┤    ⠉⠒⠤⣀    \n"
            "     1 ┤        ⠉⠒⠤⣀\n"
            "       └────────────\n"
            "        loss (nats a token) step 10\n");
}

TEST(RenderLossTerminal, TooLittleToDrawIsEmpty) {
  EXPECT_EQ(render_loss_terminal({}, 80, 20), "");
  EXPECT_EQ(render_loss_terminal(falling(1), 80, 20), "");
  EXPECT_EQ(render_loss_terminal(falling(100), 12, 20), "");
  EXPECT_NE(render_loss_terminal(falling(2), 80, 20), "");
}

TEST(RenderLossSvg, HasItsPartsAndNoScript) {
  const std::string svg = render_loss_svg(falling(300), "a <tiny> & small run");
  EXPECT_TRUE(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  EXPECT_NE(svg.find("a &lt;tiny&gt; &amp; small run"), std::string::npos);
  EXPECT_EQ(svg.find("<script"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  size_t dots = 0;
  for (size_t at = svg.find("<circle"); at != std::string::npos; at = svg.find("<circle", at + 1)) ++dots;
  EXPECT_EQ(dots, 7u);  // six validations and the legend's
}

TEST(RenderLossSvg, LongRunsStaySmall) {
  EXPECT_LT(render_loss_svg(falling(100000), "long").size(), 100'000u);
}

TEST(RenderLossSvg, FlatShortAndEmptyCurvesAreDrawn) {
  LossCurve curve;
  EXPECT_NE(render_loss_svg(curve, "t").find("no steps yet"), std::string::npos);
  curve.training = {{1, 3.0}};
  EXPECT_EQ(render_loss_svg(curve, "t").find("nan"), std::string::npos);
  curve.training = {{1, 3.0}, {2, 3.0}};
  EXPECT_EQ(render_loss_svg(curve, "t").find("nan"), std::string::npos);
}

}  // namespace
}  // namespace deeptitan
