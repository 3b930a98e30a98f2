#include "ops/rank_sum.h"

#include <algorithm>

#include "kernels/cpu/rank_sum/peer_parts.h"
#include "kernels/cpu/rank_sum/peer_sum.h"

namespace deeptitan::on_cpu {

void add_up_ranks(ExecutionContext& /*ctx*/, const Tensor& x, const PeerExchange& peers) {
  cpu::peer_sum(x.host<float>(), x.numel(), peers.window);
}

void fetch_parts(ExecutionContext& /*ctx*/, const Tensor& x, const Tensor& rounded, std::span<const int64_t> begin,
                 const PeerExchange& peers) {
  cuda::PeerParts parts = {};
  std::copy(begin.begin(), begin.end(), parts.begin);
  if (rounded.defined()) {
    cpu::fetch_rounded_parts(x.host<float>(), rounded.host<float>(), parts, peers.window);
  } else {
    cpu::fetch_parts(x.host<float>(), parts, peers.window);
  }
}

}  // namespace deeptitan::on_cpu
