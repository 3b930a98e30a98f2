#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"
#include "ops/op_scope.h"

namespace deeptitan {

/// What the host wants to know of a layer's experts, in the order of a summary's numbers.
enum LoadSummary : int64_t {
  kLargestLoad,  // tokens of the expert with most
  kWholeLoad,    // of all experts
  kIdleExperts,  // experts without a token
  kLowestBias,   // of the router; 0 without one
  kHighestBias,
  kLoadSummaryNumbers,
};

/// Summarises a layer's load where it lies. E experts.
void summarise_expert_load(ExecutionContext& ctx, const Tensor& summary /* f64 [kLoadSummaryNumbers] */,
                           const Tensor& load /* i32 [E] */, const Tensor& bias /* f32 [E] or undefined */);

DT_OP_FORMS(summarise_expert_load);

}  // namespace deeptitan
