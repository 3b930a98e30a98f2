#pragma once

#include <chrono>

namespace deeptitan {

/// Seconds of a clock that only goes forward, for measuring how long something takes; its zero means nothing.
inline double monotonic_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace deeptitan
