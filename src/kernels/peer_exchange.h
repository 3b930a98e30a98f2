#pragma once

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/cuda/barrier/peer_window.h"

namespace deeptitan {

/// Multiprocessors that adding up other ranks' gradients takes: the link bounds it, and the loads that these have on
/// their way fill it.
inline constexpr int kPeerSumMultiprocessors = 8;

/// Words of a rank's own memory for the exchanges over one window: zero at first, written by kernels alone.
struct PeerWords {
  uint64_t error;          // first failed wait (kernels/cuda/barrier/wait_error.h)
  uint32_t barrier_epoch;  // barriers passed so far
  uint32_t counts_epoch;   // exchanges of counts so far
};

/// What the ranks that share a layer's experts out need to reach each other's rows.
struct PeerExchange {
  cuda::PeerWindow window;  // all ranks' memory; every piece lies at the same offset on all of them
  int64_t barrier_pad = 0;  // bytes from the window's start: a word a rank
  int64_t counts_pad = 0;   // counts_pad_bytes, zero at first
  int32_t most_experts = 0;
  PeerWords* words = nullptr;
  int64_t timeout_ns = 0;  // longest wait for a rank
};

/// Where the words lie that rank `source` writes in exchange number `epoch`, from the pad's start: a word an expert,
/// with the epoch in its upper half so that the count is its own flag. They exist twice, chosen by the epoch's lowest
/// bit: a rank writes those of exchange e + 2 only after it had all ranks' of e + 1, which each sent after it had read
/// those of e.
DT_HOST_DEVICE inline int64_t counts_offset(uint32_t epoch, int ranks, int source, int most_experts) {
  return ((epoch & 1) * static_cast<int64_t>(ranks) + source) * most_experts * 8;
}
inline int64_t counts_pad_bytes(int ranks, int most_experts) {
  return 2 * static_cast<int64_t>(ranks) * most_experts * 8;
}
DT_HOST_DEVICE inline uint64_t counted_word(uint32_t epoch, int32_t count) {
  return static_cast<uint64_t>(epoch) << 32 | static_cast<uint32_t>(count);
}
/// The epoch after `epoch`: never 0, and after the largest one of the other parity.
DT_HOST_DEVICE inline uint32_t epoch_behind(uint32_t epoch) {
  return epoch == 0xffffffffu ? 2 : epoch + 1;
}

/// The sizes of an exchange of rows.
struct ExpertRowsShape {
  int64_t slots = 0;     // T * K of this rank
  int experts = 0;       // E, of all ranks, in equal parts
  int64_t capacity = 0;  // R, rows that each rank has room for
};

/// Where an exchange of counts says that rows lie.
struct AgreedRows {
  int32_t* first_row = nullptr;     // [E]: of this rank's rows of each expert, where the expert is; -1: nowhere
  int32_t* group_offset = nullptr;  // [e + 1]: of this rank's experts
  int32_t* group_size = nullptr;    // [e]
  int32_t* row_overflow = nullptr;  // set to 1 where any rank has no room for its rows
};

/// The rows of this rank's slots, wherever they lie: place[slot] = rank * capacity + row; -1: nowhere.
struct PlacedSlots {
  const int32_t* place = nullptr;  // [T, K]
  int64_t tokens = 0;
  int top_k = 1;
  int64_t capacity = 0;
};

}  // namespace deeptitan
