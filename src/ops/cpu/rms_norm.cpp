#include "ops/rms_norm.h"

#include "kernels/cpu/norm/rms_norm.h"

namespace deeptitan::on_cpu {

void rms_norm(ExecutionContext& /*ctx*/, const Tensor& out, const Tensor& rstd, const Tensor& x, const Tensor& weight,
              double epsilon) {
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::rms_norm(out.host<T>(), out.stride(), host_or_null(rstd), x.host<T>(), x.stride(), weight.host<float>(),
                  x.size(0), x.size(1), static_cast<float>(epsilon));
  });
}

void add_rms_norm(ExecutionContext& /*ctx*/, const Tensor& sum, const Tensor& out, const Tensor& rstd, const Tensor& a,
                  const Tensor& b, const Tensor& weight, double epsilon) {
  for_activation_type(a, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::add_rms_norm(sum.host<T>(), out.host<T>(), host_or_null(rstd), a.host<T>(), b.host<T>(), weight.host<float>(),
                      a.size(0), a.size(1), static_cast<float>(epsilon));
  });
}

void rms_norm_backward_input(ExecutionContext& /*ctx*/, const Tensor& d_x, const Tensor& d_out, const Tensor& x,
                             const Tensor& rstd, const Tensor& weight, bool accumulate) {
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::rms_norm_backward_input(d_x.host<T>(), d_x.stride(), d_out.host<T>(), d_out.stride(), x.host<T>(), x.stride(),
                                 rstd.host<float>(), weight.host<float>(), x.size(0), x.size(1), accumulate);
  });
}

void rms_norm_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x,
                              const Tensor& rstd, bool accumulate) {
  ArenaScope workspace(*ctx.workspace);
  const Tensor partial = workspace.take(DType::kF32, {cpu::rms_norm_backward_weight_workspace(x.size(0), x.size(1))});
  if (ctx.planning) return;
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::rms_norm_backward_weight(d_weight.host<float>(), d_out.host<T>(), d_out.stride(), x.host<T>(), x.stride(),
                                  rstd.host<float>(), x.size(0), x.size(1), partial.host<float>(), accumulate);
  });
}

}  // namespace deeptitan::on_cpu
