#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "model/deepseek/deepseek_model.h"
#include "model/stage.h"
#include "parallel/bucket_shards.h"

namespace deeptitan {

/// How gradients come to the ranks that keep them. ZeRO-1: they lie whole on every rank, and are added up once a step.
/// ZeRO-2: a rank keeps its part of each bucket's sum over the microbatches; a bucket is added up over the ranks as
/// soon as a microbatch's backward has completed it, and the next one's gradients then take its memory. What a bucket's
/// rank keeps is ParameterBucket::kept.
///
/// In a pipeline several microbatches are on their way, but what writes to gradients comes in windows into which
/// nothing else comes between: a stage's backward (or that of its weights), the modules' backward, the head's loss. A
/// bucket lies in one of them, so that it is added up microbatch by microbatch, with the bits of one stage. A table
/// that two stages hold, and exchange once a step, stays whole.
class GradientShards final : public GradientObserver {
 public:
  /// `stages` are all of the model's, wherever they lie; `microbatches` of a step are on their way together.
  GradientShards(BucketShards& shards, DeepseekModel& model, int zero_stage, std::vector<Stage> stages,
                 int microbatches)
      : shards_(shards),
        model_(model),
        zero_stage_(zero_stage),
        stages_(std::move(stages)),
        in_windows_(zero_stage == 2 && (stages_.size() > 1 || microbatches > 1)),
        microbatches_(microbatches) {}

  /// Before anything is planned: where the model's buckets end.
  void cut_buckets();
  /// Takes the gradients' memory; after the values'.
  void plan(Arena& arena);
  /// Before a step's first microbatch.
  void begin_step();
  /// Before those that are on their way together.
  void begin_microbatches(ExecutionContext& ctx);
  void completed(ExecutionContext& ctx, int64_t time) override;
  /// After the last: what is kept is then the sum of all ranks and microbatches.
  void end_step(ExecutionContext& ctx);

 private:
  bool is_table(size_t parameter) const { return &model_.parameters().all()[parameter] == model_.embedding_table(); }
  bool shared(const ParameterBucket& bucket) const;
  void begin_bucket(ExecutionContext& ctx, const ParameterBucket& bucket);
  void add_to_kept(ExecutionContext& ctx, size_t bucket);

  BucketShards& shards_;
  DeepseekModel& model_;
  int zero_stage_;
  std::vector<Stage> stages_;
  bool in_windows_;
  int microbatches_;
  std::vector<int64_t> complete_;  // by bucket: when its gradients are
  std::vector<char> begun_;        // by bucket: whether something is kept of this step
  std::vector<int> left_;          // by bucket: microbatches that will still complete it
};

}  // namespace deeptitan
