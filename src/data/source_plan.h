#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace deeptitan {

/// What a run asks of one of its sources, and what that has.
struct SourceDemand {
  std::string name;
  double weight = 1;
  double max_passes = 0;           // 0: no limit
  int64_t sequences_per_pass = 0;  // at least that many are in a pass
};

/// What a source gives to a run.
struct SourceShare {
  double share = 0;   // of the run's sequences, from its first to its last
  double passes = 0;  // over the source, in the whole run; 0 where the run's length is not known
};

/// How the sequences of a run are divided among its sources: in proportion to their weights, but of no source more than
/// max_passes allow; what that takes away goes to the others by their weights. `total_sequences` of 0 is a run without
/// a known length, which has no limits. Throws a usage error that says how many steps would fit (of
/// `sequences_per_step`) where all sources together may not give as many.
std::vector<SourceShare> divide_run(std::span<const SourceDemand> demands, int64_t total_sequences,
                                    int64_t sequences_per_step);

}  // namespace deeptitan
