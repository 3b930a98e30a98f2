#include "model/sublayer.h"

#include "ops/elementwise.h"

namespace deeptitan {

void Sublayer::forward_onto(ExecutionContext& ctx, const ForwardContext& forward_context, const Tensor& out,
                            const Tensor& x, const Tensor& residual) const {
  forward(ctx, forward_context, out, x, nullptr);
  add(ctx, out, out, residual);
}

}  // namespace deeptitan
