#pragma once

#include <functional>
#include <memory>

#include "core/stream.h"

namespace deeptitan {

/// A function's launches as one graph: the first run captures them, later runs replay them with the addresses and the
/// launch arguments of the first. The only place that knows graphs. On the CPU each run calls the function.
///
/// What is captured must launch the same work every time: what changes from step to step lies in memory (StepState).
class CapturedGraph {
 public:
  CapturedGraph(Stream stream, std::function<void()> body);
  ~CapturedGraph();
  CapturedGraph(const CapturedGraph&) = delete;
  CapturedGraph& operator=(const CapturedGraph&) = delete;

  /// Captures where that has not been done, then queues the graph in its stream.
  void run();
  /// Forgets what was captured: the next run captures anew.
  void reset();

 private:
  Stream stream_;
  std::function<void()> body_;
  std::shared_ptr<void> graph_;  // cudaGraphExec_t; nullptr: not captured, or the CPU
};

}  // namespace deeptitan
