#pragma once

#include <cstdint>

#include "core/error.h"
#include "core/random.h"

namespace deeptitan {

/// A permutation of 0 .. size-1 chosen by a key, one element at a time and without a table, so that a shuffled order
/// can be entered anywhere. A Feistel network over the next even power of two permutes; what falls outside walks on
/// along its cycle until it comes back inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
class RandomPermutation {
 public:
  /// Throws Error unless 0 < size < 2^62.
  RandomPermutation(uint64_t size, uint64_t key) : size_(size), key_(key) {
    DT_CHECK(size > 0 && size < (uint64_t{1} << 62), "a permutation of {} elements; expected 1 to 2^62", size);
    while ((uint64_t{1} << (2 * half_bits_)) < size) ++half_bits_;
  }

  uint64_t size() const { return size_; }

  /// Element `index` (< size) of the shuffled order.
  uint64_t operator[](uint64_t index) const {
    do {
      index = permute(index);
    } while (index >= size_);
    return index;
  }

 private:
  uint64_t permute(uint64_t x) const {
    const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
    uint64_t left = x >> half_bits_, right = x & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t next = left ^ (mix_bits(key_ + mix_bits(right + (round << 56) + 1)) & mask);
      left = right;
      right = next;
    }
    return (left << half_bits_) | right;
  }

  uint64_t size_;
  uint64_t key_;
  int half_bits_ = 1;
};

}  // namespace deeptitan
