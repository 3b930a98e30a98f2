#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace deeptitan {

/// How the tokens of a step were spread over the experts of one layer.
struct MoeLayerMetrics {
  int64_t layer = 0;
  double load_max_over_mean = 0;  // most loaded expert's tokens over the mean; 1 = even
  int64_t experts_without_tokens = 0;
  double bias_range = 0;  // largest minus smallest router bias; 0 for routers without
  double aux_loss = 0;    // sequence-wise balance loss as it enters the loss: weighted, nats a token
};

/// The held-out text of one source, or of all of them.
struct ValidationMetrics {
  std::string name;
  double loss = 0;           // nats a token
  double bits_per_byte = 0;  // nats / ln 2 over the bytes of text
};

/// What one optimizer step reports.
struct StepMetrics {
  int64_t step = 0;
  int64_t tokens = 0;  // of the run so far
  double loss = 0;     // nats a token, of the main head
  double learning_rate = 0;
  double gradient_norm = 0;  // before clipping
  double tokens_per_second = 0;
  double step_seconds = 0;
  bool skipped = false;  // not finite, and left out
  int64_t row_overflows =
      0;  // times that rows did not fit where they were dispatched to, so that the step was run again
  std::optional<double> mtp_loss;
  std::vector<MoeLayerMetrics> moe_layers;
  std::optional<ValidationMetrics> validation;  // over all sources, where the step validated
  std::vector<ValidationMetrics> validation_sources;

  /// The layer whose load is least even, or null for a dense model.
  const MoeLayerMetrics* worst_moe_layer() const;
};

/// One named number of a step, as TensorBoard shows it: "train/loss", "moe/layer_03/load_max_over_mean".
struct MetricScalar {
  std::string tag;
  double value;
};

/// Every number of the step but its counters.
std::vector<MetricScalar> scalars_of(const StepMetrics& metrics);

/// The step as a JSON object on one line, without a line's end: step, tokens, loss, learning_rate, gradient_norm,
/// tokens_per_second, step_seconds; where they apply skipped, row_overflows, mtp_loss, moe_layers (a list of
/// MoeLayerMetrics), validation_loss, validation_bits_per_byte and validation_sources ({name: {loss, bits_per_byte}}).
/// Numbers that are not finite are null.
std::string to_json_line(const StepMetrics& metrics);

/// The loss that a file of such lines has for a step; nothing where the step was not logged, or its loss is null.
std::optional<double> recorded_loss(const std::filesystem::path& metrics, int64_t step);

}  // namespace deeptitan
