#include "ops/rank_sum.h"

#include "kernels/cpu/rank_sum/peer_sum.h"

namespace deeptitan::on_cpu {

void add_up_ranks(ExecutionContext& /*ctx*/, const Tensor& x, const PeerExchange& peers) {
  cpu::peer_sum(x.host<float>(), x.numel(), peers.window);
}

}  // namespace deeptitan::on_cpu
