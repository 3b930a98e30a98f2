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
/// Without a pipeline, gradients are added up beside the backward of the next layer: in ZeRO-1 those of a step's last
/// microbatch, in ZeRO-2 those of each, whose memory is free again when that layer's backward is over.
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
  /// Around those that are on their way together; `last`: no other ones of the step follow.
  void begin_microbatches(ExecutionContext& ctx, bool last);
  void completed(ExecutionContext& ctx, int64_t time) override;
  void end_microbatches(ExecutionContext& ctx);
  /// In place of the three where a graph does what they did.
  void replayed_microbatches(bool last);
  /// After the last: what is kept is then the sum of all ranks and microbatches.
  void end_step(ExecutionContext& ctx);

 private:
  bool is_table(size_t parameter) const { return &model_.parameters().all()[parameter] == model_.embedding_table(); }
  bool shared(const ParameterBucket& bucket) const;
  // Whether what one layer's backward has completed is added up beside the next one's.
  bool beside() const { return stages_.size() == 1 && microbatches_ == 1; }
  void begin_bucket(ExecutionContext& ctx, const ParameterBucket& bucket);
  void wait_for_sums(ExecutionContext& ctx);
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
  std::vector<char> added_up_;     // by bucket: whether it has been, of this step
  bool on_its_way_ = false;        // something is added up beside what is computed
  bool last_ = false;              // the microbatches that are on their way are the step's last
};

}  // namespace deeptitan
