#pragma once

// What a run of training with a pipeline leaves on each of its ranks.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/transfer.h"
#include "support/tiny_model.h"
#include "train/training_engine.h"

namespace deeptitan::testing {

constexpr int64_t kPipelineLength = 21;
constexpr int kPipelineMicrobatches = 6;

// What a rank, or the one process, has in the end.
struct PipelineRun {
  std::vector<double> reports;  // of each step: losses, norm, balance and loads
  std::vector<double> evaluations;
  std::vector<float> logits;
  std::map<std::string, std::vector<float>> values;  // by parameter
  int64_t planned_parameters = 0;
};

inline TrainingEngineOptions pipeline_options(const Schedule& schedule) {
  TrainingEngineOptions options;
  options.seq_len = kPipelineLength;
  options.sequences = 2;
  options.schedule = schedule;
  options.max_norm = 0.5;  // so that the norm matters
  return options;
}

inline PipelineRun run_steps(const ModelConfig& config, const TrainingEngineOptions& options) {
  TrainingEngine engine(config, options);
  engine.allocate();
  engine.initialize(7);
  PipelineRun run;
  for (const PlannedArena& entry : engine.plan().arenas) {
    if (entry.name == "parameters") run.planned_parameters = entry.bytes;
  }
  for (int64_t step = 1; step <= 3; ++step) {
    std::vector<PackedBatch> batches;
    int64_t targets = 0;  // of all ranks
    for (int rank = 0; rank < ranks_in(options.groups.data); ++rank) {
      for (int m = 0; m < kPipelineMicrobatches; ++m) {
        PackedBatch batch = random_batch(config, 2, kPipelineLength, static_cast<uint64_t>(100 * step + 10 * rank + m));
        targets += batch.target_count;
        if (rank == rank_in(options.groups.data)) batches.push_back(std::move(batch));
      }
    }
    engine.begin_step(step, 0.01, targets, kPipelineMicrobatches);
    for (const PackedBatch& batch : batches) engine.add_microbatch(batch);
    const StepResult report = engine.finish_step();
    run.reports.insert(run.reports.end(), {report.loss, report.mtp_loss, report.gradient_norm});
    for (const MoeLayerMetrics& layer : report.moe_layers) {
      run.reports.insert(run.reports.end(), {static_cast<double>(layer.layer), layer.aux_loss, layer.load_max_over_mean,
                                             layer.bias_range});
    }
    run.evaluations.push_back(engine.evaluate(batches.front()));
  }
  run.logits = engine.next_token_logits(std::vector<int32_t>{5, 3, 8});
  for (const Parameter& p : engine.model().parameters().all()) {
    if (!p.value.defined()) continue;
    run.values[fmt::format("{} from {}", p.spec.name, p.owned.first)] = download<float>(p.value);
  }
  return run;
}

inline ModelConfig with_layers(ModelConfig config, int64_t layers, int64_t modules) {
  config.num_hidden_layers = layers;
  config.num_nextn_predict_layers = modules;
  return config;
}

}  // namespace deeptitan::testing
