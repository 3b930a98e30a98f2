#include "ops/rank_sum.h"

#include "core/error.h"

namespace deeptitan {

void add_up_ranks(ExecutionContext& ctx, const Tensor& x, const PeerExchange& peers) {
  check_tensor(x, "add_up_ranks: x", DType::kF32, {-1});
  check_contiguous("add_up_ranks", {x});
  OpScope op(ctx, "add_up_ranks", {&x}, {}, {.bytes = static_cast<double>(x.bytes()) * (peers.window.n_ranks + 1)});
  op.run(on_cpu::add_up_ranks, DT_ON_CUDA(add_up_ranks), x, peers);
}

}  // namespace deeptitan
