#include "data/source_plan.h"

#include <cmath>

#include <fmt/format.h>

#include "core/error.h"

namespace deeptitan {

std::vector<SourceShare> divide_run(std::span<const SourceDemand> demands, int64_t total_sequences,
                                    int64_t sequences_per_step) {
  const auto total = static_cast<double>(total_sequences);
  std::vector<SourceShare> shares(demands.size());
  std::vector<bool> limited(demands.size(), false);
  double rest = 1;  // of the run, for those that are not limited
  while (true) {
    double weights = 0;
    for (size_t i = 0; i < demands.size(); ++i) weights += limited[i] ? 0 : demands[i].weight;
    if (weights == 0) break;
    bool changed = false;
    for (size_t i = 0; i < demands.size(); ++i) {
      if (limited[i]) continue;
      const SourceDemand& demand = demands[i];
      shares[i].share = rest * (demand.weight / weights);
      if (demand.max_passes == 0 || total_sequences == 0) continue;
      const double most = std::floor(demand.max_passes * static_cast<double>(demand.sequences_per_pass));
      if (shares[i].share * total <= most) continue;
      shares[i].share = most / total;
      limited[i] = true;
      changed = true;
    }
    if (!changed) break;
    rest = 1;
    for (size_t i = 0; i < demands.size(); ++i) rest -= limited[i] ? shares[i].share : 0;
  }
  double given = 0;
  for (size_t i = 0; i < demands.size(); ++i) {
    given += shares[i].share * total;
    shares[i].passes = shares[i].share * total / static_cast<double>(demands[i].sequences_per_pass);
  }
  DT_CHECK_USAGE(
      given > total - 0.5,
      "the run takes {} sequences, and data.sources within their max_passes give {:.0f}; lower training.steps "
      "to {:.0f}, raise max_passes, or add text",
      total_sequences, given, std::floor(given / static_cast<double>(sequences_per_step)));
  return shares;
}

}  // namespace deeptitan
