#include "model/parameter_buckets.h"

#include <algorithm>
#include <iterator>

#include "core/error.h"
#include "kernels/square_blocks.h"
#include "model/parameter.h"

namespace deeptitan {
namespace {

int64_t round_up(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

// The place next to `place` where two blocks of a parameter, or two parameters, meet.
int64_t nearest_block_end(const ParameterBucket& bucket, int64_t place) {
  const auto behind = std::upper_bound(bucket.members.begin(), bucket.members.end(), place,
                                       [](int64_t at, const auto& member) { return at < member.offset; });
  const ParameterBucket::Member& member = *std::prev(behind);
  const int64_t end = behind == bucket.members.end() ? bucket.numel : behind->offset;
  const int64_t block = square_block_elements(member.whole);
  const int64_t before = (member.first + place - member.offset) / block * block;
  const auto here = [&](int64_t in_whole) {
    const int64_t at = in_whole - member.first;
    return at >= member.numel ? end : member.offset + std::max<int64_t>(0, at);
  };
  const int64_t low = here(before), high = here(before + block);
  return place - low <= high - place ? low : high;
}

}  // namespace

std::vector<ParameterBucket> cut_into_buckets(const std::deque<Parameter>& parameters, int64_t alignment,
                                              int64_t enough, std::span<const int64_t> windows) {
  const auto window_of = [&](size_t parameter) { return windows.empty() ? 0 : windows[parameter]; };
  std::vector<ParameterBucket> buckets;
  std::vector<size_t> open;  // the buckets that still take parameters, one of each kind
  for (size_t i = parameters.size(); i-- > 0;) {
    const Parameter& p = parameters[i];
    if (p.residency != Residency::kTrained) continue;
    const auto same_kind = [&](size_t b) {
      return buckets[b].placement == p.spec.placement && buckets[b].weight_decay == p.spec.weight_decay;
    };
    auto bucket = std::find_if(open.begin(), open.end(), same_kind);
    if (bucket == open.end()) {
      open.push_back(buckets.size());
      bucket = open.end() - 1;
      buckets.push_back({p.spec.placement, p.spec.weight_decay, {}, 0, {}, {}, {}});
    } else if (buckets[*bucket].numel + p.numel() > enough ||
               window_of(buckets[*bucket].members.front().parameter) != window_of(i)) {
      *bucket = buckets.size();
      buckets.push_back({p.spec.placement, p.spec.weight_decay, {}, 0, {}, {}, {}});
    }
    ParameterBucket& into = buckets[*bucket];
    const int64_t offset = round_up(into.numel, alignment);
    into.members.push_back({i, offset, p.numel(), p.first_in_whole(), p.whole_numel()});
    into.numel = offset + p.numel();
  }
  return buckets;
}

BucketPart owned_part(const ParameterBucket& bucket, int64_t ranks, int64_t rank) {
  DT_CHECK(ranks > 0 && 0 <= rank && rank < ranks, "rank {} of {}: ranks count from 0", rank, ranks);
  const auto cut = [&](int64_t r) { return nearest_block_end(bucket, r * bucket.numel / ranks); };
  return {rank == 0 ? 0 : cut(rank), rank + 1 == ranks ? bucket.numel : cut(rank + 1)};
}

}  // namespace deeptitan
