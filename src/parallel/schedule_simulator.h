#pragma once

#include <vector>

#include "parallel/schedule.h"

namespace deeptitan {

/// How long actions take, in any unit; a backward of both is the sum of its halves. Transfers take no time.
struct ActionTimes {
  double forward = 1;
  double backward_input = 1;
  double backward_weights = 1;
};

/// When a rank works.
struct TimedAction {
  Action action;
  double begin = 0;
  double end = 0;
};

/// What a schedule does.
struct SimulatedSchedule {
  double time = 0;                                 // until the last rank is done
  double bubble = 0;                               // share of the ranks' time in which they wait
  std::vector<int> live_records;                   // by stage: microbatches that are begun and not ended, at most
  std::vector<std::vector<TimedAction>> timeline;  // by rank: its work, transfers left out
};

/// Runs a schedule without a model. Throws where ranks wait for one another for ever (naming what each waits for),
/// where a rank receives messages in another order than that in which they were sent to it (what goes forward and what
/// goes backward each arrive in order), where a microbatch of a stage is not forwarded and backwarded once, in that
/// order, or where the gradients of weights are not added in the order of the microbatches (which would change their
/// bits).
SimulatedSchedule simulate(const Schedule& schedule, const ActionTimes& times = {});

}  // namespace deeptitan
