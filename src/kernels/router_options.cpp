#include "kernels/router_options.h"

#include "core/error.h"

namespace deeptitan {

float router_weight_scale(const RouterOptions& options) {
  const bool normalised = options.normalize_top_k && options.top_k > 1;
  return normalised && options.scoring == RouterScoring::kSoftmax ? 1.0f : options.scaling_factor;
}

void check_router_options(const RouterOptions& options) {
  DT_CHECK_USAGE(options.experts >= 1 && options.experts <= kMaxExperts, "router: experts = {}, must be 1 to {}",
                 options.experts, kMaxExperts);
  DT_CHECK_USAGE(options.top_k >= 1 && options.top_k <= kMaxTopK && options.top_k <= options.experts,
                 "router: top_k = {}, must be 1 to {} and at most the {} experts", options.top_k, kMaxTopK,
                 options.experts);
  if (options.selection == RouterSelection::kTopK) return;
  DT_CHECK_USAGE(options.groups >= 1 && options.groups <= kMaxExpertGroups && options.experts % options.groups == 0,
                 "router: groups = {}, must be 1 to {} and divide the {} experts", options.groups, kMaxExpertGroups,
                 options.experts);
  DT_CHECK_USAGE(options.top_groups >= 1 && options.top_groups <= options.groups,
                 "router: top_groups = {}, must be 1 to groups = {}", options.top_groups, options.groups);
  const int available = options.experts / options.groups * options.top_groups;
  DT_CHECK_USAGE(
      options.top_k <= available,
      "router: top_k = {} but {} of {} groups hold only {} of the {} experts; raise top_groups or lower top_k",
      options.top_k, options.top_groups, options.groups, available, options.experts);
}

}  // namespace deeptitan
