#include "data/validation_batches.h"

#include <algorithm>

namespace deeptitan {

ValidationBatches::ValidationBatches(const TokenDataset& dataset, int64_t sequence_length, int64_t max_tokens,
                                     const TextEncoder& encoder)
    : dataset_(&dataset),
      range_(dataset.validation()),
      sequence_length_(sequence_length),
      padding_token_(encoder.eos_token_id),
      token_bytes_(encoder.token_bytes) {
  if (range_.is_chat()) {
    packing_.emplace(range_, sequence_length, std::nullopt);
    sequence_count_ = packing_->sequences();
    if (max_tokens > 0)
      sequence_count_ = std::min(sequence_count_, (max_tokens + sequence_length - 1) / sequence_length);
    return;
  }
  // The first token is no target, and the last begins no sequence: it would be one without a target.
  const int64_t targets = std::max<int64_t>(0, range_.size() - 1);
  const int64_t read = max_tokens > 0 ? std::min(targets, max_tokens) : targets;
  range_.end = range_.first + (read > 0 ? read + 1 : 0);
  sequence_count_ = (read + sequence_length - 1) / sequence_length;
}

bool ValidationBatches::next_batch(int64_t sequences, PackedBatch* batch) {
  if (next_sequence_ == sequence_count_) return false;
  batch->reset(sequences, sequence_length_);
  for (int64_t i = 0; i < sequences; ++i) {
    if (next_sequence_ == sequence_count_) {
      append_padding_sequence(padding_token_, batch);
    } else if (packing_) {
      packing_->append(next_sequence_++, padding_token_, token_bytes_, batch);
    } else {
      const int64_t first = range_.first + next_sequence_++ * sequence_length_;
      append_sequence(range_, first, padding_token_, token_bytes_, batch);
    }
  }
  return true;
}

}  // namespace deeptitan
