#pragma once

#include <cstdint>

#include "data/batch_source.h"

namespace deeptitan {

/// Uniformly random tokens, each sequence one document: data.synthetic, to measure speed without a text. The target of
/// a sequence's last token is one more random token.
class SyntheticSource final : public BatchSource {
 public:
  SyntheticSource(int64_t vocab_size, int64_t sequence_length, int64_t seed);

  void next_batch(int64_t sequences, PackedBatch* batch) override;
  void skip(int64_t sequences) override { drawn_ += sequences; }
  DataPosition position() const override;
  void restore(const DataPosition& position) override;

 private:
  int64_t vocab_size_;
  int64_t sequence_length_;
  uint64_t key_;
  int64_t drawn_ = 0;
};

}  // namespace deeptitan
