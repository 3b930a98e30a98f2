#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "core/arena.h"
#include "core/device.h"

namespace deeptitan {

/// What changes from step to step. It lives where the kernels run (on a GPU: in its memory), so that a captured step
/// reads it anew instead of a value frozen at capture.
struct StepState {
  int64_t step = 0;  // optimizer steps, this one included: 1 in the first
  double learning_rate = 0;
  float gradient_scale = 1.0f;  // what AdamW multiplies gradients by: the clipping coefficient
  int32_t valid = 1;            // 0: something in this step is not finite; AdamW and the router-bias update do nothing
};

/// Time, floating-point operations and calls of each op, where somebody wants to know.
struct OpProfile {
  struct Entry {
    double seconds = 0;
    double flops = 0;
    int64_t calls = 0;
  };
  std::map<std::string, Entry> entries;
};

/// Goes into every op: where it runs and what it may use.
struct ExecutionContext {
  Device device;
  void* stream = nullptr;      // of the device; the CPU has none
  Arena* workspace = nullptr;  // a stack: an op gives back what it took
  StepState* state = nullptr;
  OpProfile* profile = nullptr;  // nullptr: nothing is timed
  bool planning = false;         // ops check and count workspace, but launch nothing
  bool check_finite = false;     // ops look at every output and throw, naming the op, at the first that is not finite
};

}  // namespace deeptitan
