#include "kernels/cuda/barrier/barrier.h"

#include "core/error.h"
#include "kernels/cuda/barrier/launch.h"

namespace deeptitan::cuda {

int64_t barrier_pad_bytes(int n_ranks) {
  return (n_ranks * static_cast<int64_t>(sizeof(uint32_t)) + 127) / 128 * 128;
}

void barrier_ranks(const BarrierArguments& arguments, BarrierOrder order, cudaStream_t stream) {
  const PeerWindow& window = arguments.window;
  DT_CHECK(window.n_ranks >= 1 && window.n_ranks <= kMaxPeerRanks && window.rank >= 0 && window.rank < window.n_ranks,
           "barrier: rank {} of {} ranks; a window holds 1 to {} ranks", window.rank, window.n_ranks, kMaxPeerRanks);
  DT_CHECK(arguments.pad_offset >= 0 && arguments.pad_offset % 128 == 0,
           "barrier: pad_offset = {} is not a multiple of 128", arguments.pad_offset);
  DT_CHECK(arguments.timeout_ns > 0, "barrier: timeout_ns = {}; give the longest wait in nanoseconds, above zero",
           arguments.timeout_ns);
  if (window.n_ranks == 1) return;
  launch_barrier_ranks(arguments, order, stream);
}

}  // namespace deeptitan::cuda
