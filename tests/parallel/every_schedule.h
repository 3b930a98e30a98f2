#pragma once

#include <utility>
#include <vector>

#include "parallel/schedule.h"

namespace deeptitan::testing {

/// Two stages a rank, in the order of a V: stage s and the last but s lie on one rank, so that two neighbours do as
/// well.
inline Schedule v_shaped_schedule(int ranks, int microbatches) {
  std::vector<int> placement;
  std::vector<std::vector<Action>> computed(ranks);
  for (int stage = 0; stage < 2 * ranks; ++stage) placement.push_back(stage < ranks ? stage : 2 * ranks - 1 - stage);
  for (int rank = 0; rank < ranks; ++rank) {
    const int down = rank, up = 2 * ranks - 1 - rank;
    for (const auto& [kind, stage] : {std::pair{ActionKind::kForward, down}, std::pair{ActionKind::kForward, up},
                                      std::pair{ActionKind::kBackward, up}, std::pair{ActionKind::kBackward, down}}) {
      for (int m = 0; m < microbatches; ++m) computed[rank].push_back({kind, stage, m});
    }
  }
  return with_transfers("v-shaped", ranks, 2 * ranks, microbatches, computed, placement);
}

/// All schedules that there are, which the simulator, one process and ranks must run alike: a new one is listed here.
inline std::vector<Schedule> every_schedule(int ranks, int microbatches) {
  std::vector<Schedule> schedules = {gpipe_schedule(ranks, microbatches), one_f_one_b_schedule(ranks, microbatches),
                                     zero_bubble_schedule(ranks, microbatches), v_shaped_schedule(ranks, microbatches)};
  if (microbatches % ranks == 0) schedules.push_back(interleaved_schedule(ranks, 2, microbatches));
  return schedules;
}

}  // namespace deeptitan::testing
