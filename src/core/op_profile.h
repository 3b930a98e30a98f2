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

  /// One call of an op, in the order of the calls.
  struct Span {
    std::string name;
    double begin = 0;  // seconds behind the begin of the first
    double seconds = 0;
    double flops = 0;
    double bytes = 0;
  };
  bool keep_spans = false;
  std::vector<Span> spans;  // where they are kept

  /// Counts an op that lies between two events. On a GPU its time is read by finish().
  void add(const char* name, double flops, double bytes, const Event& begin, const Event& end);
  /// Waits for the events added so far and adds their times.
  void finish();

 private:
  struct Timed {
    std::string name;
    double flops;
    double bytes;
    Event begin;
    Event end;
  };
  void add_times(const Timed& op);

  std::vector<Timed> timed_;
  Event first_;
};

/// The spans as a trace that chrome://tracing and ui.perfetto.dev show.
std::string chrome_trace(const OpProfile& profile);

}  // namespace deeptitan
