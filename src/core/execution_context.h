#pragma once

#include <cstdint>

#include "core/arena.h"
#include "core/device.h"
#include "core/op_profile.h"
#include "core/stream.h"

namespace deeptitan {

/// What changes from step to step. It lives where the kernels run (on a GPU: in its memory), so that a captured step
/// reads it anew instead of a value frozen at capture.
struct StepState {
  int64_t step = 0;  // optimizer steps, this one included: 1 in the first
  double learning_rate = 0;
  float gradient_scale = 1.0f;  // what AdamW multiplies gradients by: the clipping coefficient
  int32_t valid = 1;            // 0: something in this step is not finite; AdamW and the router-bias update do nothing
};

/// Goes into every op: where it runs and what it may use.
struct ExecutionContext {
  Device device;
  Stream compute;              // ops run here
  Stream communication;        // what goes to other ranks, beside it
  Arena* workspace = nullptr;  // a stack: an op gives back what it took
  StepState* state = nullptr;
  OpProfile* profile = nullptr;  // nullptr: nothing is counted or timed
  bool planning = false;         // ops check and count workspace, but launch nothing
  bool check_finite = false;     // ops look at every output and throw, naming the op, at the first that is not finite
};

}  // namespace deeptitan
