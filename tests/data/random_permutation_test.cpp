#include "data/random_permutation.h"

#include <vector>

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

TEST(RandomPermutation, EachElementComesOnce) {
  for (const uint64_t size : {1u, 2u, 3u, 4u, 5u, 16u, 17u, 1000u, 65536u, 65537u}) {
    const RandomPermutation order(size, 99);
    std::vector<bool> seen(size);
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t element = order[i];
      ASSERT_LT(element, size);
      ASSERT_FALSE(seen[element]);
      seen[element] = true;
    }
  }
}

TEST(RandomPermutation, KeysGiveDifferentOrdersWithoutDrift) {
  const uint64_t size = 10000;
  const RandomPermutation a(size, 1), b(size, 2);
  int same = 0, unmoved = 0, ascending = 0;
  for (uint64_t i = 0; i + 1 < size; ++i) {
    same += a[i] == b[i];
    unmoved += a[i] == i;
    ascending += a[i] < a[i + 1];
  }
  EXPECT_LT(same, 10);     // one is expected
  EXPECT_LT(unmoved, 10);  // one is expected
  EXPECT_NEAR(ascending, 5000, 200);
}

TEST(RandomPermutation, EveryOrderOfThreeElementsTurnsUp) {
  int count[27] = {};
  for (uint64_t key = 0; key < 6000; ++key) {
    const RandomPermutation order(3, key);
    ++count[order[0] * 9 + order[1] * 3 + order[2]];
  }
  for (const int at : {5, 7, 11, 15, 19, 21}) EXPECT_NEAR(count[at], 1000, 200) << at;
}

TEST(RandomPermutation, NothingToPermuteIsAnError) {
  EXPECT_THROW(RandomPermutation(0, 1), Error);
}

}  // namespace
}  // namespace deeptitan
