#pragma once

#include <cstdint>
#include <filesystem>

#include "core/file.h"
#include "train/metrics_record.h"

namespace deeptitan {

/// metrics.jsonl: a line for each step that is logged, in the order of steps, on disk when write() returns.
class MetricsWriter {
 public:
  /// Opens or creates the file. Lines of steps after `resumed_step` (0 = a new run: all lines), and a last line that a
  /// killed run left unfinished, are cut off. Throws Error where the file cannot be written, or holds a line that is
  /// not this program's.
  MetricsWriter(const std::filesystem::path& path, int64_t resumed_step);

  void write(const StepMetrics& metrics);

 private:
  File file_;
  uint64_t end_ = 0;
};

}  // namespace deeptitan
