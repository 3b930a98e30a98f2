#include "train/loss_curve.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/file.h"
#include "core/json_reader.h"

namespace deeptitan {

LossCurve read_loss_curve(const std::filesystem::path& metrics_path) {
  const std::string text = read_file(metrics_path);
  LossCurve curve;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const nlohmann::json line = try_read_json(std::string_view(text).substr(at, end - at)).value_or(nlohmann::json());
    at = end + 1;
    if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer()) continue;
    const auto step = line["step"].get<int64_t>();
    const auto add = [&](const char* key, std::vector<LossCurve::Point>& points) {
      const auto value = line.find(key);
      if (value != line.end() && value->is_number()) points.push_back({step, value->get<double>()});
    };
    add("loss", curve.training);
    add("validation_loss", curve.validation);
  }
  return curve;
}

std::vector<LossCurve::Point> smoothed(const std::vector<LossCurve::Point>& points, size_t width) {
  std::vector<double> sums(points.size() + 1, 0.0);
  for (size_t i = 0; i < points.size(); ++i) sums[i + 1] = sums[i] + points[i].loss;
  std::vector<LossCurve::Point> result;
  result.reserve(points.size());
  for (size_t i = 0; i < points.size(); ++i) {
    const size_t begin = i - std::min(i, width / 2);
    const size_t end = std::min(i + width / 2 + 1, points.size());
    result.push_back({points[i].step, (sums[end] - sums[begin]) / static_cast<double>(end - begin)});
  }
  return result;
}

std::vector<double> axis_ticks(double low, double high, int count) {
  DT_CHECK(low < high && count > 0, "an axis from {} to {} with {} ticks; expected a range above 0 and at least 1", low,
           high, count);
  const double rough = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double multiple : {5.0, 2.0, 1.0}) {
    if (multiple * power >= rough * 0.7) step = multiple * power;
  }
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; ++i) ticks.push_back(i * step);
  return ticks;
}

}  // namespace deeptitan
