#include "parallel/shared_pieces.h"

#include <algorithm>
#include <numeric>

namespace deeptitan {

SharedPieces share_memory(const std::vector<TimedPiece>& pieces, int64_t alignment) {
  std::vector<size_t> order(pieces.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return pieces[a].first < pieces[b].first; });
  SharedPieces result{std::vector<int64_t>(pieces.size(), 0), 0};
  std::vector<size_t> placed;  // by offset
  for (const size_t i : order) {
    const TimedPiece& piece = pieces[i];
    int64_t offset = 0;
    for (const size_t other : placed) {
      const bool together = piece.first <= pieces[other].last && pieces[other].first <= piece.last;
      if (!together || result.offsets[other] + pieces[other].size <= offset) continue;
      if (result.offsets[other] >= offset + piece.size) break;
      offset = (result.offsets[other] + pieces[other].size + alignment - 1) / alignment * alignment;
    }
    result.offsets[i] = offset;
    result.size = std::max(result.size, offset + piece.size);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), offset,
                                   [&](int64_t at, size_t other) { return at < result.offsets[other]; }),
                  i);
  }
  return result;
}

}  // namespace deeptitan
