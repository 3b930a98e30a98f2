#include "train/rank_batches.h"

namespace deeptitan {

void draw_step(BatchSource& source, int64_t microbatches, int64_t sequences, int rank, int ranks, StepBatches& step) {
  step.mine.resize(static_cast<size_t>(microbatches));
  step.targets = 0;
  PackedBatch others;  // another rank's, drawn to count its targets
  for (PackedBatch& mine : step.mine) {
    for (int r = 0; r < ranks; ++r) {
      PackedBatch& drawn = r == rank ? mine : others;
      source.next_batch(sequences, &drawn);
      step.targets += drawn.target_count;
    }
  }
}

}  // namespace deeptitan
