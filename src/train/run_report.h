#pragma once

#include <optional>
#include <string>

#include "config/run_config.h"
#include "core/digest.h"
#include "train/metrics_record.h"
#include "train/metrics_writer.h"
#include "train/progress_line.h"
#include "train/run_folder.h"
#include "train/tensorboard_writer.h"

namespace deeptitan {

/// What a run says while it trains: metrics.jsonl, TensorBoard's files and the loss curve in its folder, the progress
/// line and messages on stdout. Of many ranks the first has one.
class RunReport {
 public:
  /// Goes on behind step `step`, up to which the folder's metrics are `metrics`. `flops_per_token`, `peak`,
  /// `plain`: see ProgressLine.
  RunReport(const RunConfig& config, RunFolder& folder, int64_t step, const FileDigest& metrics, double flops_per_token,
            double peak, bool plain);

  /// A line above the progress line.
  void message(const std::string& text) { progress_.message(text); }
  /// A step's metrics, everywhere. `eta_seconds` to the end of the run.
  void show(const StepMetrics& metrics, double eta_seconds);
  /// Leaves the progress line standing.
  void finish() { progress_.finish(); }
  /// How far metrics.jsonl is written and safe.
  FileDigest synced() { return metrics_.synced(); }
  /// The run's losses, to the terminal and to loss.svg.
  void draw_loss_curve();

 private:
  RunConfig config_;
  RunFolder& folder_;
  MetricsWriter metrics_;
  std::optional<TensorboardWriter> tensorboard_;
  ProgressLine progress_;
};

}  // namespace deeptitan
