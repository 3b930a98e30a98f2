#include "comm/peer_memory.h"

#include <cmath>

#include "core/error.h"
#include "kernels/cuda/barrier/wait_error.h"
#include "kernels/router_options.h"

namespace deeptitan {
namespace {

constexpr int64_t kPage = 4096;

int64_t whole_pages(int64_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

}  // namespace

PeerMemory::PeerMemory(Device device, int rank, int ranks, double deadline) : device_(device) {
  DT_CHECK(ranks >= 1 && ranks <= cuda::kMaxPeerRanks && rank >= 0 && rank < ranks,
           "memory of {} ranks, seen by rank {}; kernels reach that of 1 to {}", ranks, rank, cuda::kMaxPeerRanks);
  peers_.window.rank = rank;
  peers_.window.n_ranks = ranks;
  peers_.most_experts = kMaxExperts;
  peers_.timeout_ns = std::llround(1e9 * deadline);
  peers_.barrier_pad = 0;
  peers_.counts_pad = whole_pages(ranks * static_cast<int64_t>(sizeof(uint32_t)));
  signal_bytes_ = peers_.counts_pad + whole_pages(counts_pad_bytes(ranks, kMaxExperts));
}

void PeerMemory::allocate(int64_t bytes) {
  words_ = MemoryBlock("signals of ranks", device_, MemoryKind::kDevice, sizeof(PeerWords));
  found_ = MemoryBlock("signals of ranks", device_, MemoryKind::kPinned, sizeof(uint64_t));
  beside_ = Stream(device_);
  giving_up_ = Stream(device_);
  peers_.words = reinterpret_cast<PeerWords*>(words_.data());
  map(signal_bytes_ + bytes, peers_.window);
}

void PeerMemory::queue_check(const Stream& stream) const {
  stream.copy(found_.data(), &peers_.words->error, sizeof(uint64_t));
}

void PeerMemory::check() const {
  cuda::check_wait_error(*reinterpret_cast<const uint64_t*>(found_.data()), peers_.timeout_ns);
}

void PeerMemory::abandon() noexcept {
  abandoned_ = true;
  if (peers_.words == nullptr) return;
  const uint64_t error = cuda::encode_wait_error({cuda::WaitKind::kBarrier, rank(), rank(), 0});
  try {
    giving_up_.copy(&peers_.words->error, &error, sizeof error);
  } catch (const Error&) {  // the device has failed: nothing runs on it
  }
}

void PlannedMemory::map(int64_t bytes, cuda::PeerWindow& /*window*/) {
  fail("memory of {} ranks that are only planned: {} bytes were asked for", size(), bytes);
}

}  // namespace deeptitan
