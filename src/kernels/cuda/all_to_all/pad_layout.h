#pragma once

#include "kernels/cuda/all_to_all/all_to_all.h"

#include "core/bfloat16.h"

namespace deeptitan::cuda {

/// Byte offsets inside an all-to-all's pad. Everything that two exchanges in a row could both touch exists twice and is
/// chosen by the epoch's lowest bit.
///
///   splits    [2][source rank][split_words] uint64: epoch in the upper half, value in the lower.
///             Words 0..R-1: rows for each destination; word R: rows the source can receive; word R+1: blocks of its
///             launch; then G words, the groups of the rank whose pad it is.
///   finished  [peer] uint32: blocks of the peer that have finished moving rows out of or into this rank's memory in
///             the exchange under way; zero between exchanges
///   mailbox   [2][source rank][mailbox_bytes / 4] uint64: epoch in the upper half, four bytes of a row in the lower
///
/// Because every 64-bit word carries its epoch, a reader needs no flag beside the data and the writer no fence: the
/// word either holds this exchange's value or it does not. Epoch 0 is never used, so memory that is still zero holds no
/// value. A word keeps its epoch until it is written again: an old value could be taken for a new one only if it stayed
/// untouched for exactly one lap of the counter, 2^32 - 2 exchanges.
struct PadLayout {
  int32_t n_ranks;
  int32_t split_words;
  int64_t finished;
  int64_t mailbox;
  int64_t mailbox_words;
  int64_t bytes;

  DT_HOST_DEVICE PadLayout(const AllToAllPad& pad, int ranks)
      : n_ranks(ranks),
        split_words((first_group_word(ranks) + pad.max_groups + 15) / 16 * 16),
        mailbox_words(pad.mailbox_bytes / 4) {
    finished = 2 * static_cast<int64_t>(n_ranks) * split_words * 8;
    mailbox = finished + (n_ranks * 4 + 127) / 128 * 128;
    bytes = mailbox + 2 * static_cast<int64_t>(n_ranks) * mailbox_words * 8;
  }

  static DT_HOST_DEVICE int first_group_word(int ranks) { return ranks + 2; }
  DT_HOST_DEVICE int64_t split_offset(uint32_t epoch, int source) const {
    return (static_cast<int64_t>(epoch & 1) * n_ranks + source) * split_words * 8;
  }
  DT_HOST_DEVICE int64_t finished_offset(int peer) const { return finished + peer * 4; }
  DT_HOST_DEVICE int64_t mailbox_offset(uint32_t epoch, int source) const {
    return mailbox + (static_cast<int64_t>(epoch & 1) * n_ranks + source) * mailbox_words * 8;
  }
};

/// The epoch after `epoch`. After the largest comes 2: not 0, and of the other parity.
DT_HOST_DEVICE inline uint32_t next_epoch(uint32_t epoch) {
  return epoch == 0xffffffffu ? 2 : epoch + 1;
}

}  // namespace deeptitan::cuda
