#include "model/parameter_buckets.h"

#include <algorithm>

#include "core/error.h"
#include "model/parameter.h"

namespace deeptitan {
namespace {

int64_t round_up(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

}  // namespace

std::vector<ParameterBucket> cut_into_buckets(const std::deque<Parameter>& parameters, int64_t alignment,
                                              int64_t enough) {
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
    } else if (buckets[*bucket].numel + p.numel() > enough) {
      *bucket = buckets.size();
      buckets.push_back({p.spec.placement, p.spec.weight_decay, {}, 0, {}, {}, {}});
    }
    ParameterBucket& into = buckets[*bucket];
    const int64_t offset = round_up(into.numel, alignment);
    into.members.push_back({i, offset});
    into.numel = offset + p.numel();
  }
  return buckets;
}

BucketPart owned_part(int64_t numel, int64_t ranks, int64_t rank, int64_t alignment) {
  DT_CHECK(ranks > 0 && 0 <= rank && rank < ranks, "rank {} of {}: ranks count from 0", rank, ranks);
  const int64_t part = round_up((numel + ranks - 1) / ranks, alignment);
  return {std::min(numel, rank * part), std::min(numel, (rank + 1) * part)};
}

}  // namespace deeptitan
