#pragma once

#include <initializer_list>

#include "core/execution_context.h"
#include "core/tensor.h"

namespace deeptitan {

/// Stands at the top of every op: says whether kernels are to be launched, times the op where a profile is kept, and
/// looks at outputs where finiteness is to be checked.
///
///     OpScope op(ctx, "rms_norm", flops);
///     if (!op.launch()) return;       // planning: everything is checked and counted, nothing runs
///     cpu::rms_norm(...);
///     op.check({out});
class OpScope {
 public:
  OpScope(ExecutionContext& ctx, const char* name, double flops);
  ~OpScope();
  OpScope(const OpScope&) = delete;
  OpScope& operator=(const OpScope&) = delete;

  bool launch() const { return !ctx_.planning; }

  /// Throws, naming the op, at the first output that holds a value that is not finite (only if ctx.check_finite).
  void check(std::initializer_list<Tensor> outputs) const;

 private:
  ExecutionContext& ctx_;
  const char* name_;
  double flops_;
  double start_ = 0;
};

/// Throws: the op has no kernel for this device or dtype.
[[noreturn]] void fail_unsupported(const char* op, const Tensor& tensor);

/// What a kernel takes for an fp32 tensor that may be left out.
inline float* data_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.host<float>() : nullptr;
}

/// Calls `body` with a null pointer of the tensor's element type, float or bfloat16: the CPU's activation types.
template <typename Body>
void for_activation_type(const char* op, const Tensor& tensor, const Body& body) {
  if (tensor.device().kind == DeviceKind::kCpu && tensor.dtype() == DType::kF32)
    return body(static_cast<float*>(nullptr));
  if (tensor.device().kind == DeviceKind::kCpu && tensor.dtype() == DType::kBF16) {
    return body(static_cast<bfloat16*>(nullptr));
  }
  fail_unsupported(op, tensor);
}

}  // namespace deeptitan
