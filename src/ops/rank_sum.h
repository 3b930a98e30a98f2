#pragma once

#include <cstdint>
#include <span>

#include "core/execution_context.h"
#include "core/tensor.h"
#include "kernels/peer_exchange.h"
#include "ops/op_scope.h"

namespace deeptitan {

/// x = the sum of what lies there on all ranks, each element added in the order of the ranks, where every rank's
/// kernels reach the others' memory; each rank sums another part. It stands between two meetings (meet_ranks): all have
/// written before, and none writes there again before the second.
void add_up_ranks(ExecutionContext& ctx, const Tensor& x /* f32 [n], in the window */, const PeerExchange& peers);

/// x = what the ranks keep of it: rank r elements begin[r] to begin[r + 1], which lie there where x lies here, in the
/// window. With `rounded` (else undefined) x may lie anywhere, and the parts come from there, in bf16: those of rank r
/// follow one another from element begin[r] on. It stands between two meetings, as add_up_ranks.
void fetch_parts(ExecutionContext& ctx, const Tensor& x /* f32 [n] */, const Tensor& rounded /* f32 [n] */,
                 std::span<const int64_t> begin /* ranks + 1 */, const PeerExchange& peers);

DT_OP_FORMS(add_up_ranks);
DT_OP_FORMS(fetch_parts);

}  // namespace deeptitan
