#include "train/validation.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "core/error.h"

namespace deeptitan {
namespace {

PackedBatch without_targets(PackedBatch batch) {
  std::fill(batch.targets.begin(), batch.targets.end(), -1);
  batch.target_count = batch.target_bytes = 0;
  return batch;
}

// Whatever training.loss_not_finite says: these are the weights that the next step would start from. All ranks have the
// same sum and come here together; which op it was is looked for where there is one rank.
[[noreturn]] void stop_not_finite(const std::string& source, const PackedBatch& batch, const RunRanks& ranks,
                                  TrainingEngine& engine, int64_t step, double loss) {
  std::string first;
  if (ranks.alone()) {
    engine.set_check_finite(true);
    try {
      engine.evaluate(batch);
    } catch (const Error& error) {
      first = fmt::format(" First: {}.", error.what());
    }
    engine.set_check_finite(false);
  }
  fail(
      "step {}: the validation loss of {} is {}: not finite, though the step itself was.{} Go on from the last "
      "checkpoint "
      "with a smaller optimizer.lr or training.max_norm",
      step, source, loss, first);
}

}  // namespace

void validate(std::vector<ValidationBatches>& sources, int64_t sequences, const RunRanks& ranks, TrainingEngine& engine,
              StepMetrics& metrics, const std::function<void()>& before_stop) {
  PackedBatch mine, other;
  ValidationMetrics all{.name = "all"};
  double loss_sum = 0;
  int64_t targets = 0;
  int64_t bytes = 0;
  for (ValidationBatches& batches : sources) {
    double source_loss = 0;
    int64_t source_targets = 0;
    int64_t source_bytes = 0;
    batches.rewind();
    // In rounds of a batch for each rank. Ranks that the last round leaves empty take its first once more, without
    // targets, because all evaluate together.
    for (bool left = true; left;) {
      int round = 0;
      for (; round < ranks.mesh().data_ranks(); ++round) {
        const bool is_mine = round == ranks.data_rank();
        PackedBatch& batch = is_mine ? mine : other;
        left = batches.next_batch(sequences, &batch);
        if (!left) break;
        source_targets += batch.target_count;
        source_bytes += batch.target_bytes;
        if (round == 0 && !is_mine) mine = without_targets(other);
      }
      if (round == 0) continue;
      source_loss = engine.evaluate(mine, source_loss);
      if (!std::isfinite(source_loss)) {
        before_stop();
        stop_not_finite(batches.name(), mine, ranks, engine, metrics.step, source_loss);
      }
    }
    if (source_targets == 0) continue;
    const auto bits = [](double nats, int64_t text_bytes) {
      return nats / std::numbers::ln2 / static_cast<double>(std::max<int64_t>(1, text_bytes));
    };
    metrics.validation_sources.push_back(
        {batches.name(), source_loss / static_cast<double>(source_targets), bits(source_loss, source_bytes)});
    loss_sum += source_loss;
    targets += source_targets;
    bytes += source_bytes;
    all.bits_per_byte = bits(loss_sum, bytes);
  }
  if (targets == 0) return;
  all.loss = loss_sum / static_cast<double>(targets);
  metrics.validation = all;
}

}  // namespace deeptitan
