#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/moe.h"

// The ops on a GPU, after ops/<op>.cpp has checked their tensors: each takes its workspace, and launches its kernels
// unless the context only plans. They are declared by DT_OP_FORMS in ops/<op>.h.

namespace deeptitan::on_cuda {

/// Whether no element is infinite or NaN; waits for the device.
bool all_finite(const ExecutionContext& ctx, const Tensor& x);

}  // namespace deeptitan::on_cuda
