#pragma once

#include <cstdint>
#include <vector>

#include "model/deepseek/deepseek_model.h"
#include "parallel/bucket_shards.h"

namespace deeptitan {

/// How gradients come to the ranks that keep them. ZeRO-1: they lie whole on every rank, and are added up once a step.
/// ZeRO-2: a rank keeps its part of each bucket's sum over the microbatches; a bucket is added up over the ranks as
/// soon as a microbatch's backward has completed it, and the next one's gradients then take its memory. What a bucket's
/// rank keeps is ParameterBucket::kept.
class GradientShards final : public GradientObserver {
 public:
  GradientShards(BucketShards& shards, DeepseekModel& model, int zero_stage)
      : shards_(shards), model_(model), zero_stage_(zero_stage) {}

  /// Takes the gradients' memory; after the values'.
  void plan(Arena& arena);
  /// Before a step's first microbatch, and before each.
  void begin_step();
  void begin_microbatch(ExecutionContext& ctx);
  void completed(ExecutionContext& ctx, int64_t time) override;
  /// After the last: what is kept is then the sum of all ranks and microbatches.
  void end_step(ExecutionContext& ctx);

 private:
  bool shared(const ParameterBucket& bucket) const { return zero_stage_ == 2 && shards_.is_shared_out(bucket); }
  void add_to_kept(ExecutionContext& ctx, size_t bucket);

  BucketShards& shards_;
  DeepseekModel& model_;
  int zero_stage_;
  std::vector<int64_t> complete_;  // by bucket: when its gradients are
  std::vector<char> begun_;        // by bucket: whether something is kept of this step
};

}  // namespace deeptitan
