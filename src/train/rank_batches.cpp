#include "train/rank_batches.h"

#include "parallel/rank_groups.h"

namespace deeptitan {

void RankBatches::draw_step(BatchSource& source, int64_t microbatches) {
  step_.resize(static_cast<size_t>(microbatches));
  step_targets_ = 0;
  for (PackedBatch& batch : step_) {
    for (int rank = 0; rank < ranks_in(data_); ++rank) {
      PackedBatch& drawn = rank == rank_in(data_) ? batch : others_;
      source.next_batch(sequences_, &drawn);
      step_targets_ += drawn.target_count;
    }
  }
}

bool RankBatches::draw_round(ValidationBatches& batches) {
  round_targets_ = 0;
  round_bytes_ = 0;
  int drawn = 0;
  for (; drawn < ranks_in(data_); ++drawn) {
    PackedBatch& batch = drawn == rank_in(data_) ? validation_ : others_;
    if (!batches.next_batch(sequences_, &batch)) break;
    round_targets_ += batch.target_count;
    round_bytes_ += batch.target_bytes;
  }
  if (drawn == 0) return false;
  if (drawn <= rank_in(data_)) {
    validation_.reset(sequences_, length_);
    for (int64_t i = 0; i < sequences_; ++i) append_padding_sequence(/*padding_token=*/0, &validation_);
  }
  return true;
}

}  // namespace deeptitan
