#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

namespace deeptitan {

/// One way for a kernel to copy over the link.
struct LinkCopyWay {
  const char* name;
  int blocks;
  void (*launch)(char* to, const char* from, int64_t bytes, int blocks, cudaStream_t stream);
};

/// Loads and stores, and bulk copies with several rings, each with several numbers of blocks. A copy is a pull where
/// `from` is the peer's memory and a push where `to` is.
int link_copy_ways(const LinkCopyWay** ways);

/// data[i] = a hash of (seed, i), so that no compression or repetition helps.
void fill_hash(uint32_t* data, int64_t count, uint32_t seed, cudaStream_t stream);

}  // namespace deeptitan
