#pragma once

// The shapes and the plain reference that the CPU's and the GPU's tests of permute_indices share.

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/permute_indices_shape.h"

namespace deeptitan {

struct PermuteIndicesCase {
  int ranks;
  int local_experts;
  int alignment;
  int smallest_count;
  int largest_count;
};

/// 256 experts over 1 to 128 ranks, counts of fixed and of random size, all empty, one row, and odd sizes.
inline std::vector<PermuteIndicesCase> permute_indices_cases() {
  std::vector<PermuteIndicesCase> cases;
  for (const int ranks : {1, 2, 4, 8, 16, 32, 64, 128}) {
    for (const auto& [smallest, largest] : {std::pair{1, 1}, {0, 0}, {16, 16}, {1, 32}, {0, 3}}) {
      cases.push_back({ranks, 256 / ranks, 32, smallest, largest});
    }
  }
  cases.push_back({1, 1, 1, 1, 1});
  cases.push_back({1, 1, 128, 0, 0});
  cases.push_back({3, 5, 7, 0, 40});
  cases.push_back({8, 32, 128, 0, 520});  // about 67,000 rows
  cases.push_back({16, 384, 16, 0, 9});
  cases.push_back({1, 8192, 8, 0, 2});
  return cases;
}

inline std::vector<int32_t> random_counts(const PermuteIndicesCase& c, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int32_t> count(c.smallest_count, c.largest_count);
  std::vector<int32_t> counts(static_cast<size_t>(c.ranks) * c.local_experts);
  for (int32_t& n : counts) n = count(random);
  return counts;
}

struct PermutedIndices {
  std::vector<int32_t> input_row, group_size, group_offset, group;
};

/// Written row by row from the definition; group says the expert of each row that is not padding.
inline PermutedIndices reference_permute_indices(const std::vector<int32_t>& counts, const PermuteIndicesShape& shape) {
  PermutedIndices out;
  out.group_offset.push_back(0);
  for (int e = 0; e < shape.local_experts; ++e) {
    int32_t size = 0;
    for (int r = 0; r < shape.source_ranks; ++r) {
      int32_t start = 0;
      for (int i = 0; i < r * shape.local_experts + e; ++i) start += counts[i];
      for (int32_t i = 0; i < counts[r * shape.local_experts + e]; ++i, ++size) {
        out.input_row.push_back(start + i);
        out.group.push_back(e);
      }
    }
    out.group_size.push_back(size);
    while (out.input_row.size() % shape.alignment != 0) {
      out.input_row.push_back(-1);
      out.group.push_back(-1);
    }
    out.group_offset.push_back(static_cast<int32_t>(out.input_row.size()));
  }
  out.input_row.resize(shape.row_capacity, -1);
  out.group.resize(shape.row_capacity, -1);
  return out;
}

}  // namespace deeptitan
