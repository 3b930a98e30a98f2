#pragma once

#include <string>

#include "parallel/schedule.h"

namespace deeptitan {

/// A schedule as it runs, a line a rank, for a terminal of `columns` (the first slots of time where that is too
/// narrow), and a line with the share of the bubble. Forward, each half of a backward and a dot of the bubble take a
/// slot; stages of one rank are told apart by letters.
///
///     rank 0   0   1   .   .   [0----] .   [1----]          0: forward of microbatch 0
///     rank 1   .   0   [0----] 1   [1----] .   .            [0----]: its backward; [0], w0: its two halves apart
std::string timeline_text(const Schedule& schedule, int columns);

/// The same as a drawing: forward, backward of inputs and of weights in colours of their own.
std::string timeline_svg(const Schedule& schedule);

}  // namespace deeptitan
