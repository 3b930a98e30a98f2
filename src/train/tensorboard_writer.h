#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "core/file.h"
#include "train/metrics_record.h"

namespace deeptitan {

/// A TensorBoard event file: TFRecords (length, masked CRC-32C of it, data, masked CRC-32C of that) of Event messages
/// (tensorflow/core/util/event.proto), written by hand because three of their fields are all that is needed.
class TensorboardWriter {
 public:
  /// Creates a new event file in `folder`, which is created too. In a resumed run `first_step` is the step that comes
  /// next: TensorBoard then drops what earlier files say of it and later ones. `wall_time` is in seconds since 1970.
  TensorboardWriter(const std::filesystem::path& folder, int64_t first_step, double wall_time);

  /// Adds scalars of a step; on disk when it returns.
  void write(int64_t step, double wall_time, std::span<const MetricScalar> scalars);

  const std::filesystem::path& path() const { return file_.path(); }

 private:
  void write_record(std::string_view data);

  File file_;
  uint64_t end_ = 0;
};

/// CRC-32C (Castagnoli polynomial, RFC 3720 appendix B.4) of `bytes`.
uint32_t crc32c(std::string_view bytes);

}  // namespace deeptitan
