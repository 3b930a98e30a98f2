#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "data/batch_source.h"
#include "data/packed_batch.h"
#include "data/validation_batches.h"

namespace deeptitan {

/// This rank's batches of what all ranks draw together. The sequences are one list, whatever the layout of ranks: every
/// rank draws all of it, and keeps of each microbatch the rank-th of equal parts.
class RankBatches {
 public:
  /// `data`: the ranks with sequences of their own; nullptr: this one alone. `sequences`, of `length` tokens, are in a
  /// batch of one rank.
  RankBatches(const Communicator* data, int64_t sequences, int64_t length)
      : data_(data), sequences_(sequences), length_(length) {}

  /// Draws a step of so many microbatches on each rank.
  void draw_step(BatchSource& source, int64_t microbatches);
  const std::vector<PackedBatch>& step() const { return step_; }
  /// Loss-bearing tokens of the step, of all ranks.
  int64_t step_targets() const { return step_targets_; }

  /// Draws a batch for each rank; where fewer are left, the last ranks have sequences without targets. False where none
  /// is left.
  bool draw_round(ValidationBatches& batches);
  const PackedBatch& validation() const { return validation_; }
  /// Of the round, of all ranks.
  int64_t round_targets() const { return round_targets_; }
  int64_t round_bytes() const { return round_bytes_; }

 private:
  const Communicator* data_;
  int64_t sequences_;
  int64_t length_;
  std::vector<PackedBatch> step_;
  int64_t step_targets_ = 0;
  PackedBatch validation_;
  int64_t round_targets_ = 0;
  int64_t round_bytes_ = 0;
  PackedBatch others_;  // another rank's, drawn to count its targets
};

}  // namespace deeptitan
