#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/packed_batch.h"

namespace deeptitan {

/// How far a run has read each of its sources: part of a checkpoint.
struct DataPosition {
  struct Source {
    std::string name;
    std::string fingerprint;  // of the text; a changed text cannot be resumed
    int64_t epoch = 0;        // passes over the text that are complete
    int64_t index = 0;        // sequences of this pass that were drawn
    int64_t drawn = 0;        // sequences drawn in all
    bool operator==(const Source&) const = default;
  };
  std::vector<Source> sources;
  bool operator==(const DataPosition&) const = default;

  /// As JSON on one line.
  std::string to_json() const;
  /// What to_json wrote; throws Error that begins with `where` for anything else.
  static DataPosition from_json(std::string_view text, std::string_view where);
};

/// Training batches without an end. What the next batch holds depends on the seed, the texts and the position alone.
class BatchSource {
 public:
  virtual ~BatchSource() = default;

  /// Fills `batch` with the next `sequences` sequences.
  virtual void next_batch(int64_t sequences, PackedBatch* batch) = 0;
  /// Goes on as if the next `sequences` sequences had been drawn.
  virtual void skip(int64_t sequences) = 0;
  virtual DataPosition position() const = 0;
  /// Goes on from a position of an earlier run; throws a usage error where it belongs to other sources or texts.
  virtual void restore(const DataPosition& position) = 0;
};

}  // namespace deeptitan
