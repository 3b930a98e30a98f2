#pragma once

#include <cstdint>

#include "kernels/cuda/barrier/wait_error.h"

// Loads, stores and bounded waits on words that several GPUs share. Every access is a strong operation of system scope
// in the sense of the PTX memory model, naturally aligned, so that each 32- or 64-bit word is read and written whole.

namespace deeptitan::cuda {

__device__ inline void store_relaxed_system(uint32_t* address, uint32_t value) {
  asm volatile("st.relaxed.sys.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}
__device__ inline void store_release_system(uint32_t* address, uint32_t value) {
  asm volatile("st.release.sys.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}
__device__ inline void store_relaxed_system(uint64_t* address, uint64_t value) {
  asm volatile("st.relaxed.sys.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}
/// Two neighbouring 64-bit words, address a multiple of 16. Each word is whole; nothing orders the two.
__device__ inline void store_relaxed_system(uint64_t* address, uint64_t first, uint64_t second) {
  asm volatile("st.relaxed.sys.v2.u64 [%0], {%1, %2};" ::"l"(address), "l"(first), "l"(second) : "memory");
}
/// Adds to the word, as a release; the sum has no use here, so nothing waits for it.
__device__ inline void add_release_system(uint32_t* address, uint32_t value) {
  asm volatile("red.release.sys.global.add.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(address)), "r"(value)
               : "memory");
}

__device__ inline uint32_t load_relaxed_system(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.relaxed.sys.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ inline uint32_t load_acquire_system(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ inline uint64_t load_relaxed_system(const uint64_t* address) {
  uint64_t value;
  asm volatile("ld.relaxed.sys.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
  return value;
}
__device__ inline uint64_t load_acquire_system(const uint64_t* address) {
  uint64_t value;
  asm volatile("ld.acquire.sys.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
  return value;
}
/// Two neighbouring 64-bit words, as stored by the two-word store_relaxed_system.
__device__ inline void load_relaxed_system(const uint64_t* address, uint64_t& first, uint64_t& second) {
  asm volatile("ld.relaxed.sys.v2.u64 {%0, %1}, [%2];" : "=l"(first), "=l"(second) : "l"(address) : "memory");
}

/// Orders everything before it, by this thread or seen by it, before its later stores, for all threads of all GPUs.
__device__ inline void fence_system() {
  asm volatile("fence.acq_rel.sys;" ::: "memory");
}

/// Nanoseconds on a clock that all multiprocessors of the device share (its resolution may be a microsecond).
__device__ inline uint64_t global_timer_ns() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

/// What every wait of one launch has in common.
struct WaitContext {
  uint64_t* error;     // device word: the first failure, encode_wait_error's form; zero while all is well
  int64_t timeout_ns;  // longest wait
  int32_t rank;        // who waits
  uint32_t epoch;      // in which barrier or exchange
};

/// Records a failure unless an earlier one is recorded already.
__device__ inline void report_wait_error(const WaitContext& context, WaitKind kind, int peer) {
  const WaitError error{kind, context.rank, peer, context.epoch};
  atomicCAS(reinterpret_cast<unsigned long long*>(context.error), 0ull, encode_wait_error(error));
}

/// Calls ready() until it is true, and returns true; or returns false, with the error word set, once timeout_ns have
/// passed or another wait that shares the error word has failed. The clock is read at every 64th call alone, since
/// reading it costs about as much as a poll.
template <typename Ready>
__device__ bool wait_until(const WaitContext& context, WaitKind kind, int peer, Ready ready) {
  constexpr uint32_t kPollsPerClockRead = 64;
  uint64_t start = 0;
  for (uint32_t polls = 1;; ++polls) {
    if (ready()) return true;
    if (polls % kPollsPerClockRead != 0) continue;
    const uint64_t now = global_timer_ns();
    if (start == 0) start = now;
    if (load_relaxed_system(context.error) != 0) return false;
    if (now - start > static_cast<uint64_t>(context.timeout_ns)) {
      report_wait_error(context, kind, peer);
      return false;
    }
  }
}

}  // namespace deeptitan::cuda
