#include "kernels/reference/permute_indices.h"

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace deeptitan::cpu {

void permute_indices(int32_t* input_row, int32_t* group_size, int32_t* group_offset, const int32_t* counts,
                     const PermuteIndicesShape& shape) {
  check_permute_indices_shape(shape);
  const int experts = shape.local_experts;
  const int segments = shape.source_ranks * experts;
  int32_t segment_start[kMaxSegments];  // in the input
  std::exclusive_scan(counts, counts + segments, segment_start, int32_t{0});

  std::fill_n(input_row, shape.row_capacity, -1);
  group_offset[0] = 0;
  for (int e = 0; e < experts; ++e) {
    int32_t row = group_offset[e];
    for (int segment = e; segment < segments; segment += experts) {
      const int64_t begin = std::min<int64_t>(row, shape.row_capacity);
      const int64_t end = std::min<int64_t>(static_cast<int64_t>(row) + counts[segment], shape.row_capacity);
      std::iota(input_row + begin, input_row + end, segment_start[segment]);
      row += counts[segment];
    }
    group_size[e] = row - group_offset[e];
    const int32_t padded = (group_size[e] + shape.alignment - 1) / shape.alignment * shape.alignment;
    group_offset[e + 1] = group_offset[e] + padded;
  }
}

void group_of_rows(int32_t* group, const int32_t* group_offset, const int32_t* group_size, int groups, int64_t rows) {
  std::fill_n(group, rows, -1);
  for (int g = 0; g < groups; ++g) {
    int64_t end = group_offset[g + 1];
    if (group_size != nullptr) end = std::min<int64_t>(end, static_cast<int64_t>(group_offset[g]) + group_size[g]);
    const int64_t begin = std::min<int64_t>(group_offset[g], rows);
    std::fill(group + begin, group + std::clamp(end, begin, rows), g);
  }
}

void group_of_rows_from_sizes(int32_t* group, const int32_t* group_size, int groups, int64_t rows) {
  int64_t begin = 0;
  for (int g = 0; g < groups; ++g) {
    const int64_t end = std::min<int64_t>(begin + group_size[g], rows);
    std::fill(group + begin, group + end, g);
    begin = end;
  }
  std::fill(group + begin, group + rows, -1);
}

}  // namespace deeptitan::cpu
