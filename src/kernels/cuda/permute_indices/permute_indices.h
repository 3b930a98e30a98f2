#pragma once

// Received token rows into the order of this rank's experts, on the GPU; tests/kernels/reference/permute_indices.h
// says what each function computes. All pointers are device pointers. Each is one launch; deterministic; nothing is
// allocated, waited for or read back, so all can be captured in a graph.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/permute_indices_shape.h"

namespace deeptitan::cuda {

/// As cpu::permute_indices.
void permute_indices(int32_t* input_row, int32_t* group_size, int32_t* group_offset, const int32_t* counts,
                     const PermuteIndicesShape& shape, cudaStream_t stream);

/// As cpu::group_of_rows. Throws Error where groups is not 0 to kMaxSegments.
void group_of_rows(int32_t* group, const int32_t* group_offset, const int32_t* group_size, int groups, int64_t rows,
                   cudaStream_t stream);

/// As cpu::group_of_rows_from_sizes. Throws Error where groups is not 0 to kMaxSegments.
void group_of_rows_from_sizes(int32_t* group, const int32_t* group_size, int groups, int64_t rows, cudaStream_t stream);

}  // namespace deeptitan::cuda
