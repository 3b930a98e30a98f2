#pragma once

namespace deeptitan {

/// Prints the bandwidth of cudaMemcpyPeerAsync between devices 0 and 1, one way and both ways at once.
void bench_peer_copy();

}  // namespace deeptitan
