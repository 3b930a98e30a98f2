#pragma once

#include <cstdint>
#include <span>

#include "core/execution_context.h"
#include "core/tensor.h"
#include "model/parameter.h"
#include "parallel/rank_groups.h"

namespace deeptitan {

/// Data parallelism over buckets (ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054): every rank has whole masters, and
/// keeps the optimizer of its part of each bucket. Gradients are added up where they are kept, and once a step the new
/// values are brought to all. Ranks are added in their order (ADR 0024).
class BucketShards {
 public:
  BucketShards() = default;
  explicit BucketShards(const RankGroups& groups) : groups_(groups) {}

  /// The elements of a bucket that this rank updates.
  BucketPart part(const ParameterBucket& bucket) const;
  /// Whether this rank alone answers for its parts: it is the first of those that keep the same.
  bool answers_for(ParameterPlacement placement) const;

  /// Whether this rank keeps the first element of a tensor of the parameter, and answers for it; where the parameter is
  /// not trained, whether it is the first rank that has it.
  bool writes(const ParameterList& parameters, const Parameter& parameter, const FileTensor& tensor) const;

  /// Whether several ranks keep parts of the bucket.
  bool is_shared_out(const ParameterBucket& bucket) const;
  /// Each part's gradient = the sum over the ranks that keep parts. The rest of the gradient is undefined afterwards.
  /// This and the two below go on beside what is computed: they come after all that was queued before, and what needs
  /// them waits by end_exchange. They return whether there is something to wait for. A sum in place asks what is
  /// computed beside it to spare multiprocessors; who waits ends that.
  bool reduce_scatter(ExecutionContext& ctx, const ParameterBucket& bucket) const;
  /// What is kept = the sum over the ranks that keep the same.
  bool add_up_replicas(ExecutionContext& ctx, const ParameterBucket& bucket) const;
  /// All values = those of the ranks that have updated them. Where they are fetched from where they lie, those that
  /// layers read in bf16 alone come in bf16 unless they are to be `exact`; what is prepared from them has the same
  /// bits.
  bool gather_values(ExecutionContext& ctx, const ParameterBucket& bucket, const ParameterList& parameters,
                     bool exact) const;

  /// Row p = the partial sums of squares of the whole model's p-th trained parameter's gradient, in blocks of its
  /// elements' places in the whole: on all ranks the same bits, whoever keeps which elements. `rows` are those of the
  /// trained parameters here, in order; -1: another stage answers for it.
  void square_sums(ExecutionContext& ctx, const Tensor& sums /* f64 [trained, kSquareBlocks] */,
                   const ParameterList& parameters, std::span<const int64_t> rows) const;

 private:
  const RankGroups::Copies& copies(ParameterPlacement placement) const;
  bool reaches(const PeerMemory* memory, const Communicator& shard) const;
  void fetch_values(ExecutionContext& ctx, const ParameterBucket& bucket, const ParameterList& parameters,
                    bool exact) const;

  RankGroups groups_;
};

}  // namespace deeptitan
