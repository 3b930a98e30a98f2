#pragma once

#include <cstdint>
#include <vector>

#include "data/batch_source.h"
#include "data/packed_batch.h"

namespace deeptitan {

/// A step's microbatches of one rank.
struct StepBatches {
  std::vector<PackedBatch> mine;
  int64_t targets = 0;  // loss-bearing tokens of all ranks
};

/// Draws a step of `microbatches` microbatches, of which each of `ranks` ranks has `sequences` sequences. The sequences
/// are one list, whatever the layout of ranks: every rank draws all of it, and rank `rank` keeps of each microbatch the
/// rank-th of equal parts.
void draw_step(BatchSource& source, int64_t microbatches, int64_t sequences, int rank, int ranks, StepBatches& step);

}  // namespace deeptitan
