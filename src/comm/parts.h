#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace deeptitan {

/// Where each of `parts` that follow one another begins, and where the last ends.
inline std::vector<int64_t> offsets_of(std::span<const int64_t> parts) {
  std::vector<int64_t> offsets{0};
  for (const int64_t part : parts) offsets.push_back(offsets.back() + part);
  return offsets;
}

/// Slices of about equal size, in whole elements.
inline std::vector<int64_t> even_parts(int64_t elements, int ranks) {
  std::vector<int64_t> parts(ranks);
  for (int r = 0; r < ranks; ++r) parts[r] = elements * (r + 1) / ranks - elements * r / ranks;
  return parts;
}

}  // namespace deeptitan
