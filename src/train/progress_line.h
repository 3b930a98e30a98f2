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
  /// `plain`: lines stay on a terminal too (a launcher of ranks makes one for what it passes on).
  ProgressLine(int64_t steps, double flops_per_token, double peak, bool plain = false);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// In at most `columns`: what matters least is left out first. 0: all of it.
  std::string format(const StepMetrics& metrics, double eta_seconds, int columns = 0) const;

  /// On a terminal the line replaces the one before and is no wider than it. Elsewhere lines stay: the first ten, then
  /// one every five seconds, and every one that validated, was skipped or is the last. Where both outputs are a
  /// terminal, what is logged clears the line away, which comes again with the next step.
  void show(const StepMetrics& metrics, double eta_seconds);
  /// Prints a message above the line.
  void message(const std::string& text);
  /// Leaves the last line standing.
  void finish();

 private:
  void clear();
  void flush();

  int64_t steps_;
  double flops_per_token_;
  double peak_;
  bool terminal_;
  bool open_ = false;
  int64_t lines_ = 0;
  double last_line_ = 0;      // when it was printed
  bool output_lost_ = false;  // said once
};

/// "1:02:03", "4:05".
std::string format_duration(double seconds);

}  // namespace deeptitan
