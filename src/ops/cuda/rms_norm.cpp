#include "ops/rms_norm.h"

#include "kernels/cuda/error.h"
#include "kernels/cuda/norm/rms_norm.h"
#include "ops/cuda/element.h"

namespace deeptitan::on_cuda {

void rms_norm(ExecutionContext& ctx, const Tensor& out, const Tensor& rstd, const Tensor& x, const Tensor& weight,
              double epsilon) {
  if (ctx.planning) return;
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::rms_norm(out.raw<T>(), out.stride(), raw_or_null<float>(rstd), x.raw<T>(), x.stride(), weight.raw<float>(),
                   x.size(0), x.size(1), static_cast<float>(epsilon), stream_of(ctx));
  });
}

void add_rms_norm(ExecutionContext& ctx, const Tensor& sum, const Tensor& out, const Tensor& rstd, const Tensor& a,
                  const Tensor& b, const Tensor& weight, double epsilon) {
  if (ctx.planning) return;
  for_activation_type(a, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::add_rms_norm(sum.raw<T>(), out.raw<T>(), raw_or_null<float>(rstd), a.raw<T>(), b.raw<T>(),
                       weight.raw<float>(), a.size(0), a.size(1), static_cast<float>(epsilon), stream_of(ctx));
  });
}

void rms_norm_backward_input(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_out, const Tensor& x,
                             const Tensor& rstd, const Tensor& weight, bool accumulate) {
  if (ctx.planning) return;
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::rms_norm_backward_input(d_x.raw<T>(), d_x.stride(), d_out.raw<T>(), d_out.stride(), x.raw<T>(), x.stride(),
                                  rstd.raw<float>(), weight.raw<float>(), x.size(0), x.size(1), accumulate,
                                  stream_of(ctx));
  });
}

void rms_norm_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x,
                              const Tensor& rstd, bool accumulate) {
  ArenaScope workspace(*ctx.workspace);
  const Tensor partial = workspace.take(DType::kF32, {cuda::rms_norm_backward_weight_workspace(x.size(0), x.size(1))});
  if (ctx.planning) return;
  if (!accumulate) DT_CUDA_CHECK(cudaMemsetAsync(d_weight.raw(), 0, d_weight.bytes(), stream_of(ctx)));
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::rms_norm_backward_weight(d_weight.raw<float>(), d_out.raw<T>(), d_out.stride(), x.raw<T>(), x.stride(),
                                   rstd.raw<float>(), x.size(0), x.size(1), partial.raw<float>(), stream_of(ctx));
  });
}

}  // namespace deeptitan::on_cuda
