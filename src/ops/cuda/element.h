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

/// The elements of a tensor that may be left out.
template <typename T>
T* raw_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.raw<T>() : nullptr;
}

}  // namespace deeptitan::on_cuda
