#pragma once

#include <cstdint>
#include <optional>

#include "data/document_packing.h"
#include "data/packed_batch.h"
#include "data/token_dataset.h"

namespace deeptitan {

/// The held-out part of one source as batches in a fixed order: consecutive sequences of a text, or its conversations
/// packed whole (DocumentPacking); each target once.
class ValidationBatches {
 public:
  /// At most `max_tokens` targets of a text, or as few sequences as hold that many tokens of conversations (0 = all).
  /// The dataset must outlive this.
  ValidationBatches(const TokenDataset& dataset, int64_t sequence_length, int64_t max_tokens,
                    const TextEncoder& encoder);

  const std::string& name() const { return dataset_->name(); }
  /// Sequences of the whole; 0 where nothing is held out.
  int64_t sequences() const { return sequence_count_; }
  /// Fills `batch` with the next `sequences` sequences, padded without targets where the text ends; false, and the
  /// batch as it was, where none is left.
  bool next_batch(int64_t sequences, PackedBatch* batch);
  /// Begins again.
  void rewind() { next_sequence_ = 0; }

 private:
  const TokenDataset* dataset_;
  TokenRange range_;
  std::optional<DocumentPacking> packing_;
  int64_t sequence_length_;
  int64_t sequence_count_;
  int32_t padding_token_;
  TokenBytes token_bytes_;
  int64_t next_sequence_ = 0;
};

}  // namespace deeptitan
