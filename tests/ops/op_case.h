#pragma once

#include <string>

#include "core/arena.h"
#include "core/execution_context.h"
#include "support/expect_error.h"

namespace deeptitan {

/// Tensors that only count, and a context that plans: what an op refuses, it refuses before anything runs.
class OpCase {
 public:
  OpCase() {
    ctx.workspace = &workspace_;
    ctx.planning = true;
  }

  Tensor f32(Tensor::Shape shape) { return tensors_.take(DType::kF32, shape); }
  Tensor bf16(Tensor::Shape shape) { return tensors_.take(DType::kBF16, shape); }
  Tensor i32(Tensor::Shape shape) { return tensors_.take(DType::kI32, shape); }
  Tensor on_gpu(Tensor::Shape shape) { return gpu_.take(DType::kF32, shape); }

  /// The context as it would be on a GPU.
  ExecutionContext gpu_context() {
    ExecutionContext gpu = ctx;
    gpu.device = {DeviceKind::kCuda, 0};
    return gpu;
  }

  ExecutionContext ctx;

 private:
  Arena tensors_{"tensors", {}};
  Arena workspace_{"workspace", {}};
  Arena gpu_{"gpu", {DeviceKind::kCuda, 0}};
};

}  // namespace deeptitan
