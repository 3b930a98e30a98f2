#include "comm/ipc_memory.h"

#include <cuda_runtime_api.h>
#include <unistd.h>

#include <algorithm>
#include <exception>

#include <fmt/format.h>

#include "comm/rank_texts.h"
#include "core/error.h"
#include "kernels/cuda/error.h"

namespace deeptitan {
namespace {

// A handle is of what the driver allocates at once.
constexpr int64_t kGranularity = int64_t{2} << 20;

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

std::string bus_of(Device device) {
  char bus[32] = {};
  DT_CUDA_CHECK(cudaDeviceGetPCIBusId(bus, sizeof bus, device.index));
  return bus;
}

}  // namespace

IpcMemory::IpcMemory(Device device, Communicator& group)
    : PeerMemory(device, group.rank(), group.size(), group.deadline()), device_(device), group_(group) {}

IpcMemory::~IpcMemory() {
  release();
}

void IpcMemory::release() noexcept {
  if (block_.data() == nullptr) return;
  for (void* theirs : mapped_) (void)cudaIpcCloseMemHandle(theirs);
  mapped_.clear();
  if (!abandoned()) {
    try {
      ExecutionContext host;
      group_.barrier(host);
    } catch (const std::exception&) {  // who has failed has ended the group: its memory goes with its process
    }
  }
  block_ = MemoryBlock();
}

void IpcMemory::map(int64_t bytes, cuda::PeerWindow& window) {
  release();
  block_ = MemoryBlock("memory that ranks share", device_, MemoryKind::kDevice,
                       (bytes + kGranularity - 1) / kGranularity * kGranularity);
  std::vector<cudaIpcMemHandle_t> handles(static_cast<size_t>(size()));
  DT_CUDA_CHECK(cudaIpcGetMemHandle(&handles[static_cast<size_t>(rank())], block_.data()));
  constexpr auto kEach = static_cast<int64_t>(sizeof(cudaIpcMemHandle_t));
  ExecutionContext host;
  group_.all_gather(host, Tensor(handles.data(), DType::kU8, {size() * kEach}),
                    std::vector<int64_t>(handles.size(), kEach));
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) {
      window.base[r] = block_.data();
      continue;
    }
    void* theirs = nullptr;
    DT_CUDA_CHECK(cudaIpcOpenMemHandle(&theirs, handles[static_cast<size_t>(r)], cudaIpcMemLazyEnablePeerAccess));
    mapped_.push_back(theirs);
    window.base[r] = static_cast<char*>(theirs);
  }
  group_.barrier(host);
}

std::string why_not_reached(Device device, Communicator& group) {
  const std::string mine = host_name() + " " + bus_of(device);
  std::string problem;
  const std::vector<std::string> all = gather_texts(group, mine);
  for (size_t r = 0; r < all.size() && problem.empty(); ++r) {
    if (static_cast<int>(r) == group.rank()) continue;
    const size_t space = all[r].find(' ');
    int peer = 0, reaches = 0;
    if (all[r].substr(0, space) != host_name()) {
      problem = fmt::format("ranks {} and {} of the group are on different hosts", group.rank(), r);
    } else if (cudaDeviceGetByPCIBusId(&peer, all[r].c_str() + space + 1) != cudaSuccess) {
      problem =
          fmt::format("the GPU of the group's rank {} is hidden from rank {} (CUDA_VISIBLE_DEVICES)", r, group.rank());
    } else if (cudaDeviceCanAccessPeer(&reaches, device.index, peer) != cudaSuccess || reaches == 0) {
      problem =
          fmt::format("the GPUs of the group's ranks {} and {} do not reach each other's memory", group.rank(), r);
    }
    (void)cudaGetLastError();
  }
  const std::vector<std::string> problems = gather_texts(group, problem);
  const auto first = std::find_if(problems.begin(), problems.end(), [](const std::string& p) { return !p.empty(); });
  return first == problems.end() ? std::string() : *first;
}

}  // namespace deeptitan
