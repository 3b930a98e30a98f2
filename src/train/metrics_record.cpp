#include "train/metrics_record.h"

#include <algorithm>
#include <fstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/json_reader.h"

namespace deeptitan {

const MoeLayerMetrics* StepMetrics::worst_moe_layer() const {
  const auto worst = std::max_element(
      moe_layers.begin(), moe_layers.end(),
      [](const MoeLayerMetrics& a, const MoeLayerMetrics& b) { return a.load_max_over_mean < b.load_max_over_mean; });
  return worst == moe_layers.end() ? nullptr : &*worst;
}

std::vector<MetricScalar> scalars_of(const StepMetrics& m) {
  std::vector<MetricScalar> scalars = {{"train/loss", m.loss},
                                       {"train/learning_rate", m.learning_rate},
                                       {"train/gradient_norm", m.gradient_norm},
                                       {"speed/tokens_per_second", m.tokens_per_second},
                                       {"speed/step_seconds", m.step_seconds}};
  if (m.mtp_loss) scalars.push_back({"train/mtp_loss", *m.mtp_loss});
  if (m.row_overflows > 0) scalars.push_back({"moe/row_overflows", static_cast<double>(m.row_overflows)});
  for (const MoeLayerMetrics& layer : m.moe_layers) {
    const std::string prefix = fmt::format("moe/layer_{:02}", layer.layer);
    scalars.push_back({prefix + "/load_max_over_mean", layer.load_max_over_mean});
    scalars.push_back({prefix + "/experts_without_tokens", static_cast<double>(layer.experts_without_tokens)});
    scalars.push_back({prefix + "/bias_range", layer.bias_range});
    scalars.push_back({prefix + "/aux_loss", layer.aux_loss});
  }
  const auto add_validation = [&](const ValidationMetrics& v, const std::string& prefix) {
    scalars.push_back({prefix + "/loss", v.loss});
    scalars.push_back({prefix + "/bits_per_byte", v.bits_per_byte});
  };
  if (m.validation) add_validation(*m.validation, "validation");
  for (const ValidationMetrics& source : m.validation_sources) add_validation(source, "validation/" + source.name);
  return scalars;
}

std::string to_json_line(const StepMetrics& m) {
  // The library writes a number that is not finite as null.
  nlohmann::ordered_json line = {{"step", m.step},
                                 {"tokens", m.tokens},
                                 {"loss", m.loss},
                                 {"learning_rate", m.learning_rate},
                                 {"gradient_norm", m.gradient_norm},
                                 {"tokens_per_second", m.tokens_per_second},
                                 {"step_seconds", m.step_seconds}};
  if (m.skipped) line["skipped"] = true;
  if (m.row_overflows > 0) line["row_overflows"] = m.row_overflows;
  if (m.mtp_loss) line["mtp_loss"] = *m.mtp_loss;
  for (const MoeLayerMetrics& layer : m.moe_layers) {
    line["moe_layers"].push_back({{"layer", layer.layer},
                                  {"load_max_over_mean", layer.load_max_over_mean},
                                  {"experts_without_tokens", layer.experts_without_tokens},
                                  {"bias_range", layer.bias_range},
                                  {"aux_loss", layer.aux_loss}});
  }
  if (m.validation) {
    line["validation_loss"] = m.validation->loss;
    line["validation_bits_per_byte"] = m.validation->bits_per_byte;
  }
  for (const ValidationMetrics& source : m.validation_sources) {
    line["validation_sources"][source.name] = {{"loss", source.loss}, {"bits_per_byte", source.bits_per_byte}};
  }
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::optional<double> recorded_loss(const std::filesystem::path& metrics, int64_t step) {
  std::ifstream file(metrics);
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json json = try_read_json(line).value_or(nlohmann::json());
    if (!json.is_object() || !json.contains("step") || json.at("step") != step) continue;
    if (json.contains("loss") && json.at("loss").is_number()) return json.at("loss").get<double>();
  }
  return std::nullopt;
}

}  // namespace deeptitan
