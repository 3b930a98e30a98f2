#pragma once

#include <cstdint>
#include <string>

namespace deeptitan {

/// Where looking at each op's output is not to stop at the first that is not finite: which it was.
struct FirstNotFinite {
  int64_t ops = 0;     // that were looked at
  int64_t place = -1;  // among them, of the first; -1: all are finite
  std::string what;    // what is to be said of it
};

}  // namespace deeptitan
