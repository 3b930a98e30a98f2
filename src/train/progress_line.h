#pragma once

#include <cstdint>
#include <string>

#include "train/metrics_record.h"

namespace deeptitan {

/// The one line that a running training shows: step, loss, learning rate, gradient norm, tokens/s, share of the matrix
/// peak, the worst layer's load, and the time to the end.
class ProgressLine {
 public:
  /// `flops_per_token` of training and the machine's `peak` in FLOP/s give the share of the peak; 0: not known.
  ProgressLine(int64_t steps, double flops_per_token, double peak);

  std::string format(const StepMetrics& metrics, double eta_seconds) const;

  /// On a terminal the line replaces the one before; elsewhere every line stays.
  void show(const StepMetrics& metrics, double eta_seconds);
  /// Prints a message above the line.
  void message(const std::string& text);
  /// Leaves the last line standing.
  void finish();

 private:
  int64_t steps_;
  double flops_per_token_;
  double peak_;
  bool terminal_;
  bool open_ = false;
};

/// "1:02:03", "4:05".
std::string format_duration(double seconds);

}  // namespace deeptitan
