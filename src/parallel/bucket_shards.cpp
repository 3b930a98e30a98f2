#include "parallel/bucket_shards.h"

#include <algorithm>
#include <vector>

#include "comm/exchange_scope.h"
#include "core/error.h"
#include "ops/elementwise.h"
#include "ops/expert_rows.h"
#include "ops/optimizer.h"
#include "ops/rank_sum.h"

namespace deeptitan {
namespace {

std::vector<int64_t> parts_of(const ParameterBucket& bucket, const Communicator* shard) {
  std::vector<int64_t> parts;
  for (int r = 0; r < ranks_in(shard); ++r) {
    const BucketPart part = owned_part(bucket, ranks_in(shard), r);
    parts.push_back(part.end - part.begin);
  }
  return parts;
}

}  // namespace

const RankGroups::Copies& BucketShards::copies(ParameterPlacement placement) const {
  return placement == ParameterPlacement::kExpert ? groups_.experts : groups_.dense;
}

BucketPart BucketShards::part(const ParameterBucket& bucket) const {
  const Communicator* shard = copies(bucket.placement).shard;
  return owned_part(bucket, ranks_in(shard), rank_in(shard));
}

bool BucketShards::answers_for(ParameterPlacement placement) const {
  return rank_in(copies(placement).replicate) == 0;
}

bool BucketShards::writes(const ParameterList& parameters, const Parameter& parameter, const FileTensor& tensor) const {
  for (const ParameterBucket& bucket : parameters.buckets()) {
    for (const ParameterBucket::Member& member : bucket.members) {
      if (&parameters.all()[member.parameter] != &parameter) continue;
      const BucketPart kept = part(bucket);
      const int64_t first = member.offset + tensor.offset;
      return kept.begin <= first && first < kept.end && answers_for(bucket.placement);
    }
  }
  const auto [shard, replicate] = copies(parameter.spec.placement);
  return rank_in(shard) == 0 && rank_in(replicate) == 0;
}

bool BucketShards::is_shared_out(const ParameterBucket& bucket) const {
  return ranks_in(copies(bucket.placement).shard) > 1;
}

bool BucketShards::reduce_scatter(ExecutionContext& ctx, const ParameterBucket& bucket) const {
  if (!is_shared_out(bucket)) return false;
  begin_exchange(ctx);
  Communicator* shard = copies(bucket.placement).shard;
  // What is planned is the same, however it is sent.
  if (!ctx.planning && sums_where_it_lies(*shard)) {
    const auto [begin, end] = part(bucket);
    const PeerExchange& peers = groups_.gradient_memory->peers();
    ExecutionContext beside = ctx;
    beside.compute = ctx.communication;
    meet_ranks(beside, peers);  // all have written their gradients
    add_up_ranks(beside, bucket.gradient.rows(begin, end), peers);
    meet_ranks(beside, peers);  // and may write them again
    ctx.spared_multiprocessors = kPeerSumMultiprocessors;
    return true;
  }
  shard->reduce_scatter(ctx, bucket.gradient, parts_of(bucket, shard));
  return true;
}

// The memory is that of the ranks that keep parts of what is dense; without expert parallelism, of experts too.
bool BucketShards::sums_where_it_lies(const Communicator& shard) const {
  return groups_.gradient_memory != nullptr && groups_.gradient_memory->size() == shard.size();
}

bool BucketShards::add_up_replicas(ExecutionContext& ctx, const ParameterBucket& bucket) const {
  Communicator* replicate = copies(bucket.placement).replicate;
  if (ranks_in(replicate) == 1) return false;
  begin_exchange(ctx);
  replicate->all_reduce(ctx, bucket.kept);
  return true;
}

bool BucketShards::gather_values(ExecutionContext& ctx, const ParameterBucket& bucket) const {
  if (!is_shared_out(bucket)) return false;
  begin_exchange(ctx);
  Communicator* shard = copies(bucket.placement).shard;
  shard->all_gather(ctx, bucket.value, parts_of(bucket, shard));
  return true;
}

void BucketShards::square_sums(ExecutionContext& ctx, const Tensor& sums, const ParameterList& parameters,
                               std::span<const int64_t> rows) const {
  std::vector<int64_t> row_of(parameters.all().size(), -1);
  size_t trained = 0;
  for (size_t i = 0; i < row_of.size(); ++i) {
    if (parameters.all()[i].gradient.defined()) row_of[i] = rows[trained++];
  }
  if (groups_.pipelined()) fill_zero(ctx, sums);
  for (const ParameterBucket& bucket : parameters.buckets()) {
    const BucketPart part = this->part(bucket);
    for (const ParameterBucket::Member& member : bucket.members) {
      const int64_t row = row_of[member.parameter];
      if (row < 0) continue;
      const Tensor blocks = sums.rows(row, row + 1).reshape({kSquareBlocks});
      const int64_t begin = std::max(part.begin, member.offset);
      const int64_t end = std::min(part.end, member.offset + member.numel);
      if (begin >= end || !answers_for(bucket.placement)) {
        fill_zero(ctx, blocks);
        continue;
      }
      deeptitan::square_sums(ctx, blocks, bucket.kept.rows(begin - part.begin, end - part.begin),
                             {.first = member.first + begin - member.offset, .whole = member.whole});
    }
  }
  if (ranks_in(groups_.world) > 1) {
    ExchangeScope exchange(ctx);
    groups_.world->all_reduce(ctx, sums);
  }
}

}  // namespace deeptitan
