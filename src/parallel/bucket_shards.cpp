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
  if (!ctx.planning && reaches(groups_.gradient_memory, *shard)) {
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
bool BucketShards::reaches(const PeerMemory* memory, const Communicator& shard) const {
  return memory != nullptr && memory->size() == shard.size();
}

bool BucketShards::add_up_replicas(ExecutionContext& ctx, const ParameterBucket& bucket) const {
  Communicator* replicate = copies(bucket.placement).replicate;
  if (ranks_in(replicate) == 1) return false;
  begin_exchange(ctx);
  replicate->all_reduce(ctx, bucket.kept);
  return true;
}

bool BucketShards::gather_values(ExecutionContext& ctx, const ParameterBucket& bucket, const ParameterList& parameters,
                                 bool exact) const {
  if (!is_shared_out(bucket)) return false;
  begin_exchange(ctx);
  Communicator* shard = copies(bucket.placement).shard;
  // What is planned is the same, however it is sent.
  if (!ctx.planning && reaches(groups_.value_memory, *shard)) {
    fetch_values(ctx, bucket, parameters, exact);
  } else {
    shard->all_gather(ctx, bucket.value, parts_of(bucket, shard));
  }
  return true;
}

// What is rounded lies meanwhile where the gradient was, which is of no use behind the update: a parameter's part in
// the first half of its room, so that what is between parameters stays zero.
void BucketShards::fetch_values(ExecutionContext& ctx, const ParameterBucket& bucket, const ParameterList& parameters,
                                bool exact) const {
  struct Piece {
    int64_t begin, end;
    bool rounded;
  };
  std::vector<Piece> pieces;
  for (const ParameterBucket::Member& member : bucket.members) {
    const bool rounded = !exact && parameters.read_in_bf16(parameters.all()[member.parameter]);
    pieces.push_back({member.offset, member.offset + member.numel, rounded});
  }
  const PeerExchange& peers = groups_.value_memory->peers();
  const int ranks = peers.window.n_ranks;
  ExecutionContext beside = ctx;
  beside.compute = ctx.communication;
  const BucketPart mine = part(bucket);
  for (const Piece& piece : pieces) {
    const int64_t begin = std::max(piece.begin, mine.begin), end = std::min(piece.end, mine.end);
    if (!piece.rounded || begin >= end) continue;
    const Tensor room = bucket.gradient.rows(begin, end);
    convert(beside, Tensor(room.raw(), DType::kBF16, {1, end - begin}, room.device()),
            bucket.value.rows(begin, end).reshape({1, end - begin}));
  }
  meet_ranks(beside, peers);  // all have updated what they keep
  for (const Piece& piece : pieces) {
    std::vector<int64_t> begins(static_cast<size_t>(ranks) + 1, piece.end - piece.begin);
    for (int r = 0; r < ranks; ++r) {
      begins[r] = std::clamp(owned_part(bucket, ranks, r).begin, piece.begin, piece.end) - piece.begin;
    }
    begins.front() = 0;
    fetch_parts(beside, bucket.value.rows(piece.begin, piece.end),
                piece.rounded ? bucket.gradient.rows(piece.begin, piece.end) : Tensor(), begins, peers);
  }
  meet_ranks(beside, peers);  // and may write it again
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
