#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/stream.h"

namespace deeptitan {

/// What the ops of a planned or a run step cost, by op, where somebody wants to know.
struct OpProfile {
  struct Entry {
    double seconds = 0;  // 0 where the step was only planned
    double flops = 0;
    double bytes = 0;  // that the op has to read and write at least
    int64_t calls = 0;
  };
  std::map<std::string, Entry> entries;

  /// Counts an op that lies between two events. On a GPU its time is read by finish().
  void add(const char* name, double flops, double bytes, const Event& begin, const Event& end);
  /// Waits for the events added so far and adds their times.
  void finish();

 private:
  struct Timed {
    std::string name;
    Event begin;
    Event end;
  };
  std::vector<Timed> timed_;
};

}  // namespace deeptitan
