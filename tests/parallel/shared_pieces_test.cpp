#include "parallel/shared_pieces.h"

#include <random>

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

TEST(SharedPieces, WhatIsNotInUseTogetherLiesInOnePlace) {
  const SharedPieces found = share_memory({{10, 0, 0}, {20, 1, 2}, {5, 0, 3}, {30, 3, 3}}, 4);
  EXPECT_EQ(found.offsets, (std::vector<int64_t>{0, 20, 12, 20}));
  EXPECT_EQ(found.size, 50);
}

TEST(SharedPieces, NothingInUseOverlaps) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<TimedPiece> pieces;
    int64_t most = 0;
    for (int i = 0; i < 20; ++i) {
      const auto first = static_cast<int64_t>(random() % 10);
      pieces.push_back({1 + static_cast<int64_t>(random() % 50), first, first + static_cast<int64_t>(random() % 4)});
    }
    const SharedPieces found = share_memory(pieces, 8);
    for (size_t a = 0; a < pieces.size(); ++a) {
      EXPECT_EQ(found.offsets[a] % 8, 0);
      most = std::max(most, found.offsets[a] + pieces[a].size);
      for (size_t b = 0; b < a; ++b) {
        const bool together = pieces[a].first <= pieces[b].last && pieces[b].first <= pieces[a].last;
        const bool overlap = found.offsets[a] < found.offsets[b] + pieces[b].size &&
                             found.offsets[b] < found.offsets[a] + pieces[a].size;
        EXPECT_FALSE(together && overlap) << a << " and " << b;
      }
    }
    EXPECT_EQ(found.size, most);
  }
}

}  // namespace
}  // namespace deeptitan
