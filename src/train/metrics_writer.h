#pragma once

#include <cstdint>
#include <filesystem>

#include "core/digest.h"
#include "core/file.h"
#include "train/metrics_record.h"

namespace deeptitan {

/// metrics.jsonl: a line for each step that is logged, in the order of steps, handed to the system when write()
/// returns.
class MetricsWriter {
 public:
  /// Opens or creates the file. A new run (resumed_step 0) begins it anew. A resumed one goes on behind what the file
  /// held when the checkpoint was saved (`saved`). Where that is not in the file any more, the checkpoint decides: the
  /// lines that can be read of steps up to its step are kept, the file as it was is renamed to metrics-damaged-N.jsonl,
  /// and a warning says both.
  MetricsWriter(const std::filesystem::path& path, int64_t resumed_step, const FileDigest& saved = {});

  void write(const StepMetrics& metrics);
  /// What the file holds, on the device when this returns.
  FileDigest synced();

 private:
  uint64_t end_ = 0;
  Digest digest_;  // of the bytes before end_
  File file_;
};

}  // namespace deeptitan
