#pragma once

#include "ops/linear.h"
#include "ops/moe.h"

// A whole mixture of experts as one op, for few tokens. T tokens, D hidden, E experts, K experts a token, I and S the
// widths of an expert and of the shared one.

namespace deeptitan {

/// The weights of a layer; undefined or null where it has none.
struct MixtureWeights {
  const PreparedWeight* router = nullptr;          // [E, D], of fp32
  Tensor bias;                                     // f32 [E]: only chooses
  const PreparedWeight* gate_up = nullptr;         // E matrices [2 I, D]
  const PreparedWeight* down = nullptr;            // E matrices [D, I]
  const PreparedWeight* shared_gate_up = nullptr;  // [2 S, D]
  const PreparedWeight* shared_down = nullptr;     // [D, S]
};

/// out = residual + x through router, experts and shared expert, with `routing` filled: what convert, linear, route,
/// permute_rows, grouped_linear, grouped_swiglu, unpermute_rows and add give one after another, each rounding where
/// they round. False, and nothing is done, where the device has no form for these sizes and types: then run those. All
/// experts lie here.
bool mixture_of_few(ExecutionContext& ctx, const Tensor& out /* [T, D] */, const Tensor& x /* [T, D] */,
                    const Tensor& residual /* [T, D] */, const Routing& routing, const MixtureWeights& weights,
                    const RouterOptions& options);

namespace on_cuda {
bool mixture_of_few_fits(const Tensor& x, const MixtureWeights& weights, const RouterOptions& options);
void mixture_of_few(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const Tensor& residual,
                    const Routing& routing, const MixtureWeights& weights, const RouterOptions& options);
}  // namespace on_cuda

}  // namespace deeptitan
