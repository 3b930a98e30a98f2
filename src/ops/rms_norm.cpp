#include "ops/rms_norm.h"

namespace deeptitan {
namespace {

void check_rstd(const char* name, const Tensor& rstd, int64_t tokens) {
  if (rstd.defined()) check_tensor(rstd, name, DType::kF32, {tokens});
}

}  // namespace

void rms_norm(ExecutionContext& ctx, const Tensor& out, const Tensor& rstd, const Tensor& x, const Tensor& weight,
              double epsilon) {
  check_activation_type("rms_norm: x", x);
  check_tensor(out, "rms_norm: out", x.dtype(), {x.size(0), x.size(1)});
  check_tensor(weight, "rms_norm: weight", DType::kF32, {x.size(1)});
  check_rstd("rms_norm: rstd", rstd, x.size(0));
  OpScope op(ctx, "rms_norm", {&out, &rstd}, {&x, &weight});
  op.run(on_cpu::rms_norm, DT_ON_CUDA(rms_norm), out, rstd, x, weight, epsilon);
}

void add_rms_norm(ExecutionContext& ctx, const Tensor& sum, const Tensor& out, const Tensor& rstd, const Tensor& a,
                  const Tensor& b, const Tensor& weight, double epsilon) {
  check_activation_type("add_rms_norm: a", a);
  check_tensor(b, "add_rms_norm: b", a.dtype(), {a.size(0), a.size(1)});
  check_tensor(sum, "add_rms_norm: sum", a.dtype(), {a.size(0), a.size(1)});
  check_tensor(out, "add_rms_norm: out", a.dtype(), {a.size(0), a.size(1)});
  check_tensor(weight, "add_rms_norm: weight", DType::kF32, {a.size(1)});
  check_rstd("add_rms_norm: rstd", rstd, a.size(0));
  check_contiguous("add_rms_norm", {sum, out, a, b});
  OpScope op(ctx, "add_rms_norm", {&sum, &out, &rstd}, {&a, &b, &weight});
  op.run(on_cpu::add_rms_norm, DT_ON_CUDA(add_rms_norm), sum, out, rstd, a, b, weight, epsilon);
}

void rms_norm_backward_input(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_out, const Tensor& x,
                             const Tensor& rstd, const Tensor& weight, bool accumulate) {
  check_activation_type("rms_norm_backward_input: x", x);
  check_tensor(d_x, "rms_norm_backward_input: d_x", x.dtype(), {x.size(0), x.size(1)});
  check_tensor(d_out, "rms_norm_backward_input: d_out", x.dtype(), {x.size(0), x.size(1)});
  check_tensor(rstd, "rms_norm_backward_input: rstd", DType::kF32, {x.size(0)});
  check_tensor(weight, "rms_norm_backward_input: weight", DType::kF32, {x.size(1)});
  OpScope op(ctx, "rms_norm_backward_input", {&d_x}, {&d_out, &x, &rstd, &weight});
  op.run(on_cpu::rms_norm_backward_input, DT_ON_CUDA(rms_norm_backward_input), d_x, d_out, x, rstd, weight, accumulate);
}

void rms_norm_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x,
                              const Tensor& rstd, bool accumulate) {
  check_activation_type("rms_norm_backward_weight: x", x);
  check_tensor(d_weight, "rms_norm_backward_weight: d_weight", DType::kF32, {x.size(1)});
  check_tensor(d_out, "rms_norm_backward_weight: d_out", x.dtype(), {x.size(0), x.size(1)});
  check_tensor(rstd, "rms_norm_backward_weight: rstd", DType::kF32, {x.size(0)});
  OpScope op(ctx, "rms_norm_backward_weight", {&d_weight}, {&d_out, &x, &rstd});
  op.run_with_workspace(on_cpu::rms_norm_backward_weight, DT_ON_CUDA(rms_norm_backward_weight), d_weight, d_out, x,
                        rstd, accumulate);
}

}  // namespace deeptitan
