#pragma once

#include <exception>
#include <vector>

#ifdef DT_CUDA
#include <cuda_runtime_api.h>
#endif

#include "comm/communicator.h"
#include "comm/peer_memory.h"

namespace deeptitan::testing {

/// Memory that ranks which are threads of one process reach, each with a block of its own: of the CPU, of one GPU, or
/// of a GPU each where those reach each other.
class ThreadMemory final : public PeerMemory {
 public:
  /// `ep`: the group, for what lies in the host's memory.
  ThreadMemory(Device device, Communicator& ep, double deadline = 20)
      : PeerMemory(device, ep.rank(), ep.size(), deadline), device_(device), ep_(ep) {}
  // Nobody's memory goes while another may look at it.
  ~ThreadMemory() override {
    try {
      ep_.barrier(host_);
    } catch (const std::exception&) {  // a rank that failed has ended the group: none looks any more
    }
  }

 private:
  struct Block {
    char* data;
    int device;
  };

  void map(int64_t bytes, cuda::PeerWindow& window) override {
    block_ = MemoryBlock("memory of a thread", device_, MemoryKind::kDevice, bytes);
    std::vector<Block> blocks(static_cast<size_t>(size()));
    blocks[static_cast<size_t>(rank())] = {block_.data(), device_.index};
    const auto each = static_cast<int64_t>(sizeof(Block));
    const Tensor all(blocks.data(), DType::kU8, {size() * each});
    ep_.all_gather(host_, all, std::vector<int64_t>(blocks.size(), each));
    for (size_t r = 0; r < blocks.size(); ++r) {
      window.base[r] = blocks[r].data;
#ifdef DT_CUDA
      if (device_.kind == DeviceKind::kCuda && blocks[r].device != device_.index) {
        (void)cudaDeviceEnablePeerAccess(blocks[r].device, 0);
        (void)cudaGetLastError();  // it may have been allowed before
      }
#endif
    }
    ep_.barrier(host_);
  }

  Device device_;
  Communicator& ep_;
  ExecutionContext host_;
  MemoryBlock block_;
};

}  // namespace deeptitan::testing
