#include "ops/rank_sum.h"

#include <algorithm>

#include "kernels/cuda/rank_sum/peer_parts.h"
#include "kernels/cuda/rank_sum/peer_sum.h"
#include "ops/cuda/ops.h"

namespace deeptitan::on_cuda {

void add_up_ranks(ExecutionContext& ctx, const Tensor& x, const PeerExchange& peers) {
  cuda::peer_sum(x.raw<float>(), x.numel(), peers.window, stream_of(ctx));
}

void fetch_parts(ExecutionContext& ctx, const Tensor& x, const Tensor& rounded, std::span<const int64_t> begin,
                 const PeerExchange& peers) {
  cuda::PeerParts parts = {};
  std::copy(begin.begin(), begin.end(), parts.begin);
  if (rounded.defined()) {
    cuda::fetch_rounded_parts(x.raw<float>(), rounded.raw<float>(), parts, peers.window, stream_of(ctx));
  } else {
    cuda::fetch_parts(x.raw<float>(), parts, peers.window, stream_of(ctx));
  }
}

}  // namespace deeptitan::on_cuda
