#pragma once

#include "kernels/cuda/barrier/barrier.h"
#include "kernels/cuda/barrier/signal.cuh"

namespace deeptitan::cuda {

/// The barrier, run by one block of at least n_ranks threads.
///
/// Memory order. Let W be a write of rank p before the barrier (by an earlier kernel of its stream, hence before every
/// thread of this one, or earlier in this block, ordered by the __syncthreads below) and R a read of rank r after it.
/// Under kAcquireRelease thread r of rank p stores its epoch into r's pad with release, and thread p of rank r loads it
/// with acquire, both of system scope: the store synchronises with the load, so W happens before the load, before the
/// closing __syncthreads and before R. Release is cumulative, so W need not be by the thread that stores.
/// Under kRelaxed no such edge exists: it says only that every rank has come this far.
///
/// Epochs only grow, so a peer that is one barrier ahead (it cannot be two) has written a larger number, and the
/// comparison is of the signed difference, which outlives the counter's wrap.
template <BarrierOrder kOrder>
__device__ void barrier_block(const BarrierArguments& arguments) {
  const PeerWindow& window = arguments.window;
  const int peer = static_cast<int>(threadIdx.x);
  const uint32_t epoch = *arguments.epoch + 1;
  const WaitContext context{arguments.error, arguments.timeout_ns, window.rank, epoch};
  __syncthreads();  // everyone has read the epoch and what this block wrote is ordered before the stores
  if (peer < window.n_ranks && peer != window.rank && load_relaxed_system(arguments.error) == 0) {
    auto* theirs = reinterpret_cast<uint32_t*>(window.base[peer] + arguments.pad_offset) + window.rank;
    const auto* mine = reinterpret_cast<const uint32_t*>(window.base[window.rank] + arguments.pad_offset) + peer;
    if constexpr (kOrder == BarrierOrder::kAcquireRelease) {
      store_release_system(theirs, epoch);
    } else {
      store_relaxed_system(theirs, epoch);
    }
    wait_until(context, WaitKind::kBarrier, peer, [&] {
      const uint32_t seen =
          kOrder == BarrierOrder::kAcquireRelease ? load_acquire_system(mine) : load_relaxed_system(mine);
      return static_cast<int32_t>(seen - epoch) >= 0;
    });
  }
  __syncthreads();
  if (peer == 0) *arguments.epoch = epoch;
}

}  // namespace deeptitan::cuda
