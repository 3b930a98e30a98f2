#pragma once

// What the files of this folder share.

#include <cuda_runtime_api.h>

#include "core/execution_context.h"
#include "core/tensor.h"
#include "ops/op_scope.h"

namespace deeptitan::on_cuda {

inline cudaStream_t stream_of(const ExecutionContext& ctx) {
  return static_cast<cudaStream_t>(ctx.compute.native());
}

/// What lies at an address of the device, brought to the host; waits for what was launched before.
template <typename T>
T fetch(const ExecutionContext& ctx, const T* from) {
  T value;
  ctx.compute.copy(&value, from, sizeof value);
  ctx.compute.synchronize();
  return value;
}

/// *to = value, on the device; waits for it.
template <typename T>
void store(const ExecutionContext& ctx, T* to, const T& value) {
  ctx.compute.copy(to, &value, sizeof value);
  ctx.compute.synchronize();
}

/// The elements of a tensor that may be left out.
template <typename T>
T* raw_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.raw<T>() : nullptr;
}

}  // namespace deeptitan::on_cuda
