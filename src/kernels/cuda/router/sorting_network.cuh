#pragma once

#include <cstdint>

namespace deeptitan::cuda {

/// The comparators of Batcher's merge exchange for n values (Knuth, The Art of Computer Programming 3, 5.2.2,
/// algorithm M), found by the compiler so that registers are indexed by constants.
template <int n>
struct SortingNetwork {
  int count = 0;
  int low[n * n] = {};
  int high[n * n] = {};

  constexpr SortingNetwork() {
    int top = 1;
    while (2 * top < n) top *= 2;
    for (int p = top; p > 0; p /= 2) {
      int q = top;
      int r = 0;
      int d = p;
      while (true) {
        for (int i = 0; i < n - d; ++i) {
          if ((i & p) != r) continue;
          low[count] = i;
          high[count] = i + d;
          ++count;
        }
        if (q == p) break;
        d = q - p;
        q /= 2;
        r = p;
      }
    }
  }
};

/// Sorts distinct values (and zeros), the largest first.
template <int n>
__device__ void sort_descending(uint64_t (&v)[n]) {
  constexpr SortingNetwork<n> network;
#pragma unroll
  for (int c = 0; c < network.count; ++c) {
    const uint64_t a = v[network.low[c]];
    const uint64_t b = v[network.high[c]];
    const bool swap = a < b;
    v[network.low[c]] = swap ? b : a;
    v[network.high[c]] = swap ? a : b;
  }
}

}  // namespace deeptitan::cuda
