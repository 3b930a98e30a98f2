#pragma once

#include <cstdint>

#include "core/arena.h"
#include "core/device.h"
#include "core/first_not_finite.h"
#include "core/op_profile.h"
#include "core/step_state.h"
#include "core/stream.h"

namespace deeptitan {

/// Goes into every op: where it runs and what it may use.
struct ExecutionContext {
  Device device;
  Stream compute;                // ops run here
  Stream communication;          // what goes to other ranks, beside it
  Arena* workspace = nullptr;    // a stack: an op gives back what it took
  StepState* state = nullptr;    // on the device: forms of ops read and write it, nobody else
  int64_t step = 0;              // the one that is queued, for messages; 0: before the first
  OpProfile* profile = nullptr;  // nullptr: nothing is counted or timed
  int spared_multiprocessors =
      0;                      // of a GPU: kernels that stay on theirs to the end leave these to what goes on beside
  bool planning = false;      // ops check and count workspace, but launch nothing
  bool check_finite = false;  // ops look at every output and throw, naming the op, at the first that is not finite
  FirstNotFinite* not_finite = nullptr;  // where set, it is noted here in place of throwing: other ranks wait for this
};

}  // namespace deeptitan
