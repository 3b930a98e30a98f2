#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/cuda/barrier/peer_window.h"

namespace deeptitan::cuda {

/// What a barrier promises about memory.
enum class BarrierOrder {
  kRelaxed,         // only that every rank has arrived
  kAcquireRelease,  // what any rank wrote before it arrived is visible to every rank after it
};

/// A barrier's place in the window and its counters.
struct BarrierArguments {
  PeerWindow window;
  int64_t pad_offset;  // bytes from the window's start to barrier_pad_bytes(n_ranks) bytes, a multiple of 128, zero at
                       // first
  uint32_t* epoch;     // device memory of this rank: barriers passed so far, zero at first; the kernel counts it up
  uint64_t* error;     // device memory of this rank: first failed wait (wait_error.h), zero at first
  int64_t timeout_ns;  // longest wait for one rank, above zero
};

/// Bytes of window that a barrier among n_ranks needs.
int64_t barrier_pad_bytes(int n_ranks);

/// Returns (on the device) once every rank of the window has launched the same barrier: rank r writes its epoch into
/// word r of each peer's pad and waits until every word of its own pad has reached it.
/// A wait longer than timeout_ns ends with `error` set to who waited for whom at which epoch; so does every later
/// launch, at once, until the window is opened anew. Nothing changes on the host from launch to launch, so the launch
/// can be captured in a CUDA graph. Barriers that share a pad must follow each other on one stream.
/// Throws Error for arguments out of range or a refused launch.
void barrier_ranks(const BarrierArguments& arguments, BarrierOrder order, cudaStream_t stream);

}  // namespace deeptitan::cuda
