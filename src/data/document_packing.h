#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "data/packed_batch.h"

namespace deeptitan {

/// What packing documents whole came to.
struct PackingStatistics {
  int64_t documents = 0;  // that are packed
  int64_t tokens = 0;     // of those, without what was cut off
  int64_t cut = 0;        // of those, longer than a sequence: what is beyond it is left out
  int64_t left_out = 0;   // documents without a target in their first sequence_length tokens
  int64_t longest = 0;    // tokens of the longest document
};

/// Whole documents side by side in sequences of equal length, each document once: conversations, whose answers would
/// mean nothing without what stands before them. First fit: a document goes into the first of at most 64 open sequences
/// that has room for it, else into a new one, for which the fullest is closed. A document longer than a sequence has
/// one of its own and is cut there.
class DocumentPacking {
 public:
  /// `range` begins and ends where documents do. Documents are taken in the random order of `shuffle_key`, or as they
  /// stand without one.
  DocumentPacking(const TokenRange& range, int64_t sequence_length, std::optional<uint64_t> shuffle_key);

  int64_t sequences() const { return static_cast<int64_t>(sequence_starts_.size()) - 1; }
  const PackingStatistics& statistics() const { return statistics_; }

  /// Appends sequence `index` to a batch of the same sequence length.
  void append(int64_t index, int32_t padding_token, const TokenBytes& token_bytes, PackedBatch* batch) const;

 private:
  DocumentPiece piece_of(int64_t document) const;
  bool has_target(int64_t document) const;

  TokenRange range_;
  int64_t sequence_length_;
  std::vector<int64_t> documents_;              // by sequence
  std::vector<int64_t> sequence_starts_ = {0};  // in documents_, one more than there are sequences
  PackingStatistics statistics_;
};

}  // namespace deeptitan
