#include "kernels/permute_indices_shape.h"

#include "core/error.h"

namespace deeptitan {

void check_permute_indices_shape(const PermuteIndicesShape& shape) {
  DT_CHECK(shape.source_ranks >= 1, "permute_indices: source_ranks = {}, must be at least 1", shape.source_ranks);
  DT_CHECK(shape.local_experts >= 1, "permute_indices: local_experts = {}, must be at least 1", shape.local_experts);
  DT_CHECK(static_cast<int64_t>(shape.source_ranks) * shape.local_experts <= kMaxSegments,
           "permute_indices: {} source ranks times {} local experts are more than {} segments", shape.source_ranks,
           shape.local_experts, kMaxSegments);
  DT_CHECK(shape.alignment >= 1, "permute_indices: alignment = {}, must be at least 1", shape.alignment);
  DT_CHECK(shape.row_capacity >= 0, "permute_indices: row_capacity = {}, must not be negative", shape.row_capacity);
}

}  // namespace deeptitan
