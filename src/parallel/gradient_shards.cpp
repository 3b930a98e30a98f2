#include "parallel/gradient_shards.h"

#include <algorithm>

#include "comm/exchange_scope.h"
#include "ops/elementwise.h"
#include "ops/moe.h"
#include "parallel/shared_pieces.h"

namespace deeptitan {
namespace {

// Elements that buckets begin at multiples of: 256 bytes, what kernels want of any device.
constexpr int64_t kBucketAlignment = 64;

}  // namespace

void GradientShards::cut_buckets() {
  if (!in_windows_) return;
  // The times at which windows end: whatever the schedule, nothing comes between those of one.
  std::vector<int64_t> ends = {GradientTime::kHead, GradientTime::kModules};
  for (auto stage = stages_.rbegin(); stage != stages_.rend(); ++stage) {
    ends.push_back(model_.gradient_time_of_layer(stage->embedding ? -1 : stage->first_layer));
  }
  std::vector<int64_t> windows;
  for (size_t p = 0; p < model_.parameters().all().size(); ++p) {
    const auto end = std::lower_bound(ends.begin(), ends.end(), model_.gradient_time(p).complete);
    // What stays whole has buckets of its own.
    windows.push_back(end - ends.begin() + (is_table(p) && model_.table_is_shared() ? 1 : 0));
  }
  model_.parameters().set_bucket_windows(std::move(windows));
}

bool GradientShards::shared(const ParameterBucket& bucket) const {
  if (zero_stage_ == 1 || !shards_.is_shared_out(bucket)) return false;
  return !(in_windows_ && model_.table_is_shared() && is_table(bucket.members.front().parameter));
}

void GradientShards::plan(Arena& arena) {
  ParameterList& list = model_.parameters();
  const std::vector<ParameterBucket>& buckets = list.buckets();
  complete_.assign(buckets.size(), 0);
  begun_.assign(buckets.size(), 0);
  left_.assign(buckets.size(), 0);
  added_up_.assign(buckets.size(), 0);
  std::vector<TimedPiece> pieces;
  for (size_t b = 0; b < buckets.size(); ++b) {
    TimedPiece piece{shared(buckets[b]) ? buckets[b].numel : 0,
                     model_.gradient_time(buckets[b].members.front().parameter).complete, 0};
    for (const ParameterBucket::Member& member : buckets[b].members) {
      const GradientTime time = model_.gradient_time(member.parameter);
      // In a window the table is cleared when its backward comes.
      piece.first = std::min(piece.first, in_windows_ ? time.complete : time.first);
      piece.last = std::max(piece.last, time.complete);
    }
    complete_[b] = piece.last;
    if (beside()) ++piece.last;
    pieces.push_back(piece);
  }
  const SharedPieces places = share_memory(pieces, kBucketAlignment);
  const Tensor memory = arena.take(DType::kF32, {places.size});
  for (size_t b = 0; b < buckets.size(); ++b) {
    const auto [begin, end] = shards_.part(buckets[b]);
    if (shared(buckets[b])) {
      list.bind_gradient(b, memory.rows(places.offsets[b], places.offsets[b] + buckets[b].numel),
                         arena.take(DType::kF32, {end - begin}));
    } else {
      const Tensor own = arena.take(DType::kF32, {buckets[b].numel});
      list.bind_gradient(b, own, own.rows(begin, end));
    }
  }
}

void GradientShards::begin_step() {
  std::fill(begun_.begin(), begun_.end(), 0);
  std::fill(added_up_.begin(), added_up_.end(), 0);
}

void GradientShards::begin_microbatches(ExecutionContext& ctx, bool last) {
  last_ = last;
  const std::vector<ParameterBucket>& buckets = model_.parameters().buckets();
  for (size_t b = 0; b < buckets.size(); ++b) {
    if (!shared(buckets[b])) continue;
    left_[b] = microbatches_;
    begin_bucket(ctx, buckets[b]);
  }
}

void GradientShards::begin_bucket(ExecutionContext& ctx, const ParameterBucket& bucket) {
  for (const ParameterBucket::Member& member : bucket.members) {
    Parameter& parameter = model_.parameters().all()[member.parameter];
    if (in_windows_) {
      parameter.gradient_written = false;
    } else {
      model_.begin_gradient(ctx, parameter);
    }
  }
}

void GradientShards::completed(ExecutionContext& ctx, int64_t time) {
  // Of what was completed before, while this was computed: its memory is for what comes now. What lies whole stays.
  if (zero_stage_ == 2) wait_for_sums(ctx);
  const std::vector<ParameterBucket>& buckets = model_.parameters().buckets();
  for (size_t b = 0; b < buckets.size(); ++b) {
    const bool in_parts = shared(buckets[b]);
    if ((!in_parts && !(last_ && beside())) || complete_[b] != time) continue;
    for (const ParameterBucket::Member& member : buckets[b].members) {
      model_.end_gradient(ctx, model_.parameters().all()[member.parameter]);
    }
    on_its_way_ |= shards_.reduce_scatter(ctx, buckets[b]);
    if (!in_parts) {
      on_its_way_ |= shards_.add_up_replicas(ctx, buckets[b]);
      added_up_[b] = 1;
      continue;
    }
    add_to_kept(ctx, b);
    if (!beside()) wait_for_sums(ctx);
    if (--left_[b] > 0) begin_bucket(ctx, buckets[b]);
  }
}

void GradientShards::end_microbatches(ExecutionContext& ctx) {
  wait_for_sums(ctx);
}

void GradientShards::wait_for_sums(ExecutionContext& ctx) {
  if (std::exchange(on_its_way_, false)) end_exchange(ctx);
  ctx.spared_multiprocessors = 0;
}

void GradientShards::replayed_microbatches(bool last) {
  const std::vector<ParameterBucket>& buckets = model_.parameters().buckets();
  for (size_t b = 0; b < buckets.size(); ++b) {
    const bool in_parts = shared(buckets[b]);
    if (in_parts) begun_[b] = 1;
    if (!in_parts && last && beside()) added_up_[b] = 1;
  }
}

// Behind the bucket's sum, where that is made.
void GradientShards::add_to_kept(ExecutionContext& ctx, size_t b) {
  const ParameterBucket& bucket = model_.parameters().buckets()[b];
  const auto [begin, end] = shards_.part(bucket);
  if (begin == end) return;
  ExecutionContext behind = ctx;
  behind.compute = ctx.communication;
  const Tensor part = bucket.gradient.rows(begin, end);
  if (begun_[b] == 0) {
    copy(behind, bucket.kept, part);
  } else {
    add(behind, bucket.kept, bucket.kept, part);
  }
  begun_[b] = 1;
}

void GradientShards::end_step(ExecutionContext& ctx) {
  const std::vector<ParameterBucket>& buckets = model_.parameters().buckets();
  for (size_t b = 0; b < buckets.size(); ++b) {
    if (added_up_[b] != 0) continue;
    if (!shared(buckets[b])) on_its_way_ |= shards_.reduce_scatter(ctx, buckets[b]);
    on_its_way_ |= shards_.add_up_replicas(ctx, buckets[b]);
  }
  wait_for_sums(ctx);
}

}  // namespace deeptitan
