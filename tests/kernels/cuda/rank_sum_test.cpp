#include "kernels/cuda/rank_sum/rank_sum.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/rank_sum/peer_parts.h"
#include "kernels/cuda/rank_sum/peer_sum.h"
#include "kernels/cuda/test_sizes.h"

namespace deeptitan::cuda {
namespace {

// Of magnitudes so different that another order of a sum has other bits.
template <typename T>
std::vector<T> draw(std::mt19937_64& random, int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) {
    value = static_cast<T>((static_cast<double>(random() % 2001) - 1000) *
                           std::pow(2.0, std::is_integral_v<T> ? 0.0 : static_cast<double>(random() % 40) - 20.0));
  }
  return values;
}

template <typename T>
void expect_sums_in_order() {
  std::mt19937_64 random(11);
  for (const int64_t n : {1, 255, 1024, 5000, 131'077}) {
    for (const int ranks : {2, 3, 7}) {
      const int own = static_cast<int>(random() % static_cast<uint64_t>(ranks));
      const int64_t stride = n + static_cast<int64_t>(random() % 100);
      const std::vector<T> parts = draw<T>(random, stride * ranks), mine = draw<T>(random, n);
      std::vector<T> expected(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) {
        for (int r = 0; r < ranks; ++r) {
          const T x = r == own ? mine[i] : parts[r * stride + i];
          expected[i] = r == 0 ? x : expected[i] + x;
        }
      }
      DeviceBuffer<T> sum(mine), received(parts);
      add_in_rank_order(sum.get(), received.get(), stride, ranks, own, n, nullptr);
      EXPECT_EQ(sum.download(), expected) << n << " of " << ranks << " ranks, here " << own;
    }
  }
}

TEST(RankSum, HasTheBitsOfSumsInTheOrderOfTheRanks) {
  DT_SKIP_WITHOUT_GPU();
  expect_sums_in_order<float>();
  expect_sums_in_order<double>();
  expect_sums_in_order<int32_t>();
}

TEST(RankSum, EmptyWorkTouchesNothing) {
  DT_SKIP_WITHOUT_GPU();
  DeviceBuffer<float> sum(std::vector<float>{3, 4}), received(std::vector<float>{1, 1});
  add_in_rank_order(sum.get(), received.get(), 1, 2, 0, 0, nullptr);
  EXPECT_EQ(sum.download(), (std::vector<float>{3, 4}));
}

/// Ranks whose memory is one after another on one GPU, `each` elements; one of them is here.
PeerWindow window_of(float* memory, int64_t each, int ranks, std::mt19937_64& random) {
  PeerWindow window{
      .rank = static_cast<int32_t>(random() % static_cast<uint64_t>(ranks)), .n_ranks = ranks, .base = {}};
  for (int r = 0; r < ranks; ++r) window.base[r] = reinterpret_cast<char*>(memory + r * each);
  return window;
}

// A few elements, and more than all stages of all blocks hold; at
// an address that wide loads want and at others.
TEST(PeerSum, HasTheBitsOfSumsInTheOrderOfTheRanks) {
  DT_SKIP_WITHOUT_GPU();
  std::mt19937_64 random(12);
  for (const int64_t n : {0, 1, 255, 5000, 16'384, 16'387, 131'077, 900'002}) {
    if (only_small_sizes() && n > 131'077) continue;
    for (const int ranks : {2, 3, 4, 7}) {
      for (const int64_t first : {0, 4, 3}) {
        const int64_t each = (n + first + 40 + 31) / 32 * 32;
        const std::vector<float> before = draw<float>(random, each * ranks);
        DeviceBuffer<float> memory(before);
        const PeerWindow window = window_of(memory.get(), each, ranks, random);
        std::vector<float> expected = before;
        for (int64_t i = first; i < first + n; ++i) {
          float sum = before[i];
          for (int r = 1; r < ranks; ++r) sum += before[r * each + i];
          expected[window.rank * each + i] = sum;
        }
        peer_sum(memory.get() + window.rank * each + first, n, window, nullptr);
        EXPECT_TRUE(memory.download() == expected)
            << n << " of " << ranks << " ranks from " << first << " on, here " << window.rank;
      }
    }
  }
}

// As above: parts of every length, from where wide loads can be and where not; beside them nothing is touched.
TEST(PeerParts, AreFetchedFromWhereTheyLie) {
  DT_SKIP_WITHOUT_GPU();
  std::mt19937_64 random(13);
  for (const int64_t n : {0, 1, 255, 5000, 16'387, 200'002, 4'000'000}) {
    if (only_small_sizes() && n > 16'387) continue;
    for (const int ranks : {2, 3, 4, 7}) {
      for (const int64_t first : {0, 4, 3}) {
        if (n > 1'000'000 && (ranks != 2 || first != 0)) continue;  // more chunks than blocks
        const int64_t each = (n + first + 40 + 31) / 32 * 32;
        const std::vector<float> before = draw<float>(random, each * ranks);
        DeviceBuffer<float> memory(before);
        const PeerWindow window = window_of(memory.get(), each, ranks, random);
        PeerParts parts = {};
        const int64_t unit = first == 0 ? 4 : 1;
        for (int r = 1; r < ranks; ++r) parts.begin[r] = static_cast<int64_t>(random() % (n + 1)) / unit * unit;
        parts.begin[ranks] = n;
        std::sort(parts.begin, parts.begin + ranks + 1);
        std::vector<float> expected = before;
        std::vector<float> widened(before.begin() + window.rank * each, before.begin() + (window.rank + 1) * each);
        for (int r = 0; r < ranks; ++r) {
          if (r == window.rank) continue;
          const auto* const rounded =
              reinterpret_cast<const bfloat16*>(before.data() + r * each + first + parts.begin[r]);
          for (int64_t i = parts.begin[r]; i < parts.begin[r + 1]; ++i) {
            expected[window.rank * each + first + i] = before[r * each + first + i];
            widened[first + i] = to_float(rounded[i - parts.begin[r]]);
          }
        }
        DeviceBuffer<float> x(
            std::vector<float>(before.begin() + window.rank * each, before.begin() + (window.rank + 1) * each));
        const float* const mine = memory.get() + window.rank * each + first;
        fetch_rounded_parts(x.get() + first, mine, parts, window, nullptr);
        EXPECT_TRUE(same_bytes(x.download(), widened)) << n << " of " << ranks << " ranks, rounded";
        fetch_parts(memory.get() + window.rank * each + first, parts, window, nullptr);
        EXPECT_TRUE(same_bytes(memory.download(), expected)) << n << " of " << ranks << " ranks from " << first;
      }
    }
  }
}

}  // namespace
}  // namespace deeptitan::cuda
