#pragma once

#include <vector>

#include "parallel/schedule.h"

namespace deeptitan::testing {

/// All schedules that there are, which the simulator, one process and ranks must run alike: a new one is listed here.
inline std::vector<Schedule> every_schedule(int ranks, int microbatches) {
  std::vector<Schedule> schedules = {gpipe_schedule(ranks, microbatches), one_f_one_b_schedule(ranks, microbatches),
                                     zero_bubble_schedule(ranks, microbatches)};
  if (microbatches % ranks == 0) schedules.push_back(interleaved_schedule(ranks, 2, microbatches));
  return schedules;
}

}  // namespace deeptitan::testing
