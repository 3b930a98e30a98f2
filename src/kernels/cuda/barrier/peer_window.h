#pragma once

#include <cstdint>

namespace deeptitan::cuda {

/// Most ranks that can share one window: the largest NVLink domain sold (72 GPUs).
inline constexpr int kMaxPeerRanks = 72;

/// Memory of the same size and layout on every rank, as one rank sees it. Kernels take it by value: a pointer table in
/// the kernel's parameters costs no read of device memory before the first signal is sent.
/// comm/ makes one over NCCL; a test makes one out of several buffers of one device. Owns nothing.
struct PeerWindow {
  int32_t rank;               // this rank, in [0, n_ranks)
  int32_t n_ranks;            // at most kMaxPeerRanks
  char* base[kMaxPeerRanks];  // base[p]: the first byte of rank p's memory in this rank's address space
};

}  // namespace deeptitan::cuda
