#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "core/execution_context.h"
#include "core/tensor.h"
#include "ops/row_groups.h"

// How an op is made (ops/rms_norm.h is the pattern):
//
//   ops/<op>.h         what layers call, with shapes and equation; DT_OP_FORMS(<op>) declares the devices' forms
//   ops/<op>.cpp       checks shapes, dtypes and strides, says what the op costs, and runs the device's form
//   ops/cpu/<op>.cpp   on_cpu::<op>: the same parameters, handed over to kernels/cpu
//   ops/cuda/<op>.cpp  on_cuda::<op>: the same parameters, handed over to kernels/cuda on ctx.compute
//
// A form takes Tensor::host<T>() on the CPU and Tensor::raw<T>() on CUDA, and has no loop over elements.

/// Declares on_cpu::op and on_cuda::op with the parameters of deeptitan::op.
// NOLINTBEGIN(bugprone-macro-parentheses): the argument is the name that is declared
#define DT_OP_FORMS(op)         \
  namespace on_cpu {            \
  decltype(::deeptitan::op) op; \
  }                             \
  namespace on_cuda {           \
  decltype(::deeptitan::op) op; \
  }                             \
  static_assert(true, "takes a semicolon")
// NOLINTEND(bugprone-macro-parentheses)

/// The CUDA form of an op that has one, for OpScope::run: nullptr in a build without CUDA.
#ifdef DT_CUDA
#define DT_ON_CUDA(op) on_cuda::op
#else
#define DT_ON_CUDA(op) nullptr
#endif

namespace deeptitan {

/// The CUDA form of an op that has none yet.
inline constexpr std::nullptr_t kNoCudaForm = nullptr;

/// What an op costs.
struct OpCost {
  static constexpr double kEachTensorOnce = -1;
  double flops = 0;
  double bytes = kEachTensorOnce;  // to read and write at least
};

/// Stands at the top of every op, after its checks: finds the device's form, counts and times the op where a profile is
/// kept, and looks at outputs where finiteness is to be checked. While planning it checks that the tensors lie on the
/// context's device and that the device has a form, so that a run that cannot go on is refused before it starts.
///
///     OpScope op(ctx, "add", {&out}, {&a, &b});
///     op.run(on_cpu::add, DT_ON_CUDA(add), out, a, b);
class OpScope {
 public:
  using Tensors = std::initializer_list<const Tensor*>;
  static constexpr size_t kMostOutputs = 6;

  /// The tensors must outlive the scope; undefined ones are skipped.
  OpScope(ExecutionContext& ctx, const char* name, Tensors outputs, Tensors inputs, const OpCost& cost = {});
  ~OpScope() {
    if (ctx_.profile != nullptr) [[unlikely]]
      end_profile();
  }
  OpScope(const OpScope&) = delete;
  OpScope& operator=(const OpScope&) = delete;

  /// The outputs' rows outside these groups are padding, which nobody looks at (undefined groups: there is none).
  void only_rows_of(const RowGroups& groups) { rows_ = groups.defined() ? &groups : nullptr; }

  /// Runs the device's form; while planning nothing.
  template <typename... Parameters>
  void run(void (*cpu)(ExecutionContext&, Parameters...),
           std::type_identity_t<void (*)(ExecutionContext&, Parameters...)> cuda,
           std::type_identity_t<Parameters>... arguments) {
    const auto form = choose(cpu, cuda);
    if (ctx_.planning) return;
    form(ctx_, arguments...);
    if (ctx_.check_finite) check_finite();
  }

  /// The same for forms that take workspace, which how much of is the form's own affair: they run while planning too,
  /// take their workspace, and launch nothing where ctx.planning.
  template <typename... Parameters>
  void run_with_workspace(void (*cpu)(ExecutionContext&, Parameters...),
                          std::type_identity_t<void (*)(ExecutionContext&, Parameters...)> cuda,
                          std::type_identity_t<Parameters>... arguments) {
    choose(cpu, cuda)(ctx_, arguments...);
    if (ctx_.check_finite && !ctx_.planning) check_finite();
  }

 private:
  template <typename Form>
  Form choose(Form cpu, Form cuda) const {
    if (ctx_.device.kind == DeviceKind::kCpu) [[likely]]
      return cpu;
    if (cuda == nullptr) fail_without_form();
    return cuda;
  }
  [[noreturn]] void fail_without_form() const;
  void check_devices(Tensors outputs, Tensors inputs) const;
  void begin_profile(Tensors outputs, Tensors inputs, const OpCost& cost);
  void end_profile();
  void check_finite() const;

  ExecutionContext& ctx_;
  const char* name_;
  std::array<const Tensor*, kMostOutputs> outputs_{};
  const RowGroups* rows_ = nullptr;
  OpCost cost_;
  Event begin_;
};

/// Throws unless the tensor is of a type that activations have: f32 or bf16.
void check_activation_type(const char* name, const Tensor& tensor);

/// What a CPU kernel takes for an fp32 tensor that may be left out.
inline float* host_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.host<float>() : nullptr;
}

/// The element type behind the null pointer that for_activation_type gives.
template <typename Pointer>
using Element = std::remove_pointer_t<Pointer>;

/// Calls `body` with a null pointer of the tensor's element type, float or bfloat16.
template <typename Body>
void for_activation_type(const Tensor& tensor, const Body& body) {
  if (tensor.dtype() == DType::kF32) return body(static_cast<float*>(nullptr));
  check_activation_type("an activation", tensor);
  return body(static_cast<bfloat16*>(nullptr));
}

/// The same, for ops that are one file still.
template <typename Body>
void for_activation_type(const char* /*op*/, const Tensor& tensor, const Body& body) {
  for_activation_type(tensor, body);
}
inline float* data_or_null(const Tensor& tensor) {
  return host_or_null(tensor);
}

}  // namespace deeptitan
