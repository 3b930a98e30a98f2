#include "peer_copy.h"

#include <cstdint>
#include <cstdio>

#include <cuda_runtime_api.h>

#include "kernels/cuda/error.h"
#include "link_copies.h"
#include "measure.h"

namespace deeptitan {

void bench_peer_copy() {
  constexpr int64_t kMost = 128ll << 20;
  constexpr int kCopies = 8;
  char* sources[2];
  char* targets[2];
  cudaStream_t streams[2];
  for (int d = 0; d < 2; ++d) {
    DT_CUDA_CHECK(cudaSetDevice(d));
    DT_CUDA_CHECK(cudaDeviceEnablePeerAccess(1 - d, 0));
    DT_CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&sources[d]), kMost));
    DT_CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&targets[d]), kMost));
    DT_CUDA_CHECK(cudaStreamCreateWithFlags(&streams[d], cudaStreamNonBlocking));
    fill_hash(reinterpret_cast<uint32_t*>(sources[d]), kMost / 4, static_cast<uint32_t>(d), streams[d]);
    DT_CUDA_CHECK(cudaStreamSynchronize(streams[d]));
  }
  cudaEvent_t fork = nullptr;
  cudaEvent_t join = nullptr;
  DT_CUDA_CHECK(cudaSetDevice(1));
  DT_CUDA_CHECK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
  DT_CUDA_CHECK(cudaSetDevice(0));
  DT_CUDA_CHECK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  for (const int64_t bytes : {int64_t{16} << 20, int64_t{64} << 20, kMost}) {
    for (const bool both : {false, true}) {
      const Timing t = measure(
          streams[0], 20, kCopies, [] {},
          [&] {
            if (both) {
              DT_CUDA_CHECK(cudaEventRecord(fork, streams[0]));
              DT_CUDA_CHECK(cudaStreamWaitEvent(streams[1], fork, 0));
            }
            for (int i = 0; i < kCopies; ++i) {
              DT_CUDA_CHECK(cudaMemcpyPeerAsync(targets[0], 0, sources[1], 1, static_cast<size_t>(bytes), streams[0]));
              if (both) {
                DT_CUDA_CHECK(
                    cudaMemcpyPeerAsync(targets[1], 1, sources[0], 0, static_cast<size_t>(bytes), streams[1]));
              }
            }
            if (both) {
              DT_CUDA_CHECK(cudaEventRecord(join, streams[1]));
              DT_CUDA_CHECK(cudaStreamWaitEvent(streams[0], join, 0));
            }
          });
      printf("cudaMemcpyPeerAsync %4lld MiB %-9s  %9.2f us [%9.2f %9.2f]  %6.1f GB/s each way\n",
             static_cast<long long>(bytes >> 20), both ? "both ways" : "one way", t.median, t.least, t.greatest,
             static_cast<double>(bytes) / t.median * 1e-3);
    }
  }
}

}  // namespace deeptitan
