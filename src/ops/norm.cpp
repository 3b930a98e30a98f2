#include "ops/norm.h"

#include "kernels/cpu/norm/rms_norm.h"
#include "ops/op_scope.h"

namespace deeptitan {
namespace {

template <typename T>
using Element = std::remove_pointer_t<T>;

}  // namespace

void rms_norm(ExecutionContext& ctx, const Tensor& out, const Tensor& rstd, const Tensor& x, const Tensor& weight,
              double epsilon) {
  check_tensor(out, "out", x.dtype(), {x.size(0), x.size(1)});
  check_tensor(weight, "weight", DType::kF32, {x.size(1)});
  OpScope op(ctx, "rms_norm", 0);
  if (!op.launch()) return;
  for_activation_type("rms_norm", x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::rms_norm(out.host<T>(), out.stride(), data_or_null(rstd), x.host<T>(), x.stride(), weight.host<float>(),
                  x.size(0), x.size(1), static_cast<float>(epsilon));
  });
  op.check({out});
}

void add_rms_norm(ExecutionContext& ctx, const Tensor& sum, const Tensor& out, const Tensor& rstd, const Tensor& a,
                  const Tensor& b, const Tensor& weight, double epsilon) {
  for (const Tensor* t : {&sum, &out, &b}) check_tensor(*t, "add_rms_norm", a.dtype(), {a.size(0), a.size(1)});
  check_tensor(weight, "weight", DType::kF32, {a.size(1)});
  check_contiguous("add_rms_norm", {sum, out, a, b});
  OpScope op(ctx, "add_rms_norm", 0);
  if (!op.launch()) return;
  for_activation_type("add_rms_norm", a, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::add_rms_norm(sum.host<T>(), out.host<T>(), data_or_null(rstd), a.host<T>(), b.host<T>(), weight.host<float>(),
                      a.size(0), a.size(1), static_cast<float>(epsilon));
  });
  op.check({sum, out});
}

void rms_norm_backward_input(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_out, const Tensor& x,
                             const Tensor& rstd, const Tensor& weight, bool accumulate) {
  for (const Tensor* t : {&d_x, &d_out}) check_tensor(*t, "rms_norm_backward_input", x.dtype(), {x.size(0), x.size(1)});
  OpScope op(ctx, "rms_norm_backward_input", 0);
  if (!op.launch()) return;
  for_activation_type("rms_norm_backward_input", x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::rms_norm_backward_input(d_x.host<T>(), d_x.stride(), d_out.host<T>(), d_out.stride(), x.host<T>(), x.stride(),
                                 rstd.host<float>(), weight.host<float>(), x.size(0), x.size(1), accumulate);
  });
  op.check({d_x});
}

void rms_norm_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x,
                              const Tensor& rstd) {
  check_tensor(d_weight, "d_weight", DType::kF32, {x.size(1)});
  check_tensor(d_out, "d_out", x.dtype(), {x.size(0), x.size(1)});
  OpScope op(ctx, "rms_norm_backward_weight", 0);
  ArenaScope workspace(*ctx.workspace);
  const Tensor partial = workspace.take(DType::kF32, {cpu::rms_norm_backward_weight_workspace(x.size(0), x.size(1))});
  if (!op.launch()) return;
  for_activation_type("rms_norm_backward_weight", x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::rms_norm_backward_weight(d_weight.host<float>(), d_out.host<T>(), d_out.stride(), x.host<T>(), x.stride(),
                                  rstd.host<float>(), x.size(0), x.size(1), partial.host<float>());
  });
  op.check({d_weight});
}

}  // namespace deeptitan
