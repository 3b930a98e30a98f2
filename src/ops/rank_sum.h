#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"
#include "kernels/peer_exchange.h"
#include "ops/op_scope.h"

namespace deeptitan {

/// x = the sum of what lies there on all ranks, each element added in the order of the ranks, where every rank's
/// kernels reach the others' memory; each rank sums another part. It stands between two meetings (meet_ranks): all have
/// written before, and none writes there again before the second.
void add_up_ranks(ExecutionContext& ctx, const Tensor& x /* f32 [n], in the window */, const PeerExchange& peers);

DT_OP_FORMS(add_up_ranks);

}  // namespace deeptitan
