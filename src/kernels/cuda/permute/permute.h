#pragma once

// Token rows into the order of their experts and back, on the GPU; kernels/cpu/permute/permute.h says what each
// function computes, and these give the same bits. All pointers are device pointers. Deterministic; nothing is
// allocated, waited for or read back, so all can be captured in a graph.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/row_map.h"

namespace deeptitan::cuda {

/// Bytes of device workspace that sort_slots needs; its contents need not be set.
size_t sort_slots_workspace_bytes(const SlotSortShape& shape);

/// As cpu::sort_slots, two launches. The indices and counts are not checked: they must be those of route_tokens. Throws
/// Error unless row_capacity is at least cpu::max_sorted_rows.
void sort_slots(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, const int32_t* expert_index,
                const int32_t* counts, const SlotSortShape& shape, void* workspace, cudaStream_t stream);

/// As cpu::sort_slots_that_fit, two launches; row_overflow may be null.
void sort_slots_that_fit(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, int32_t* group_size,
                         int32_t* row_overflow, const int32_t* expert_index, const int32_t* counts,
                         const SlotSortShape& shape, void* workspace, cudaStream_t stream);

/// As cpu::sort_received_rows, one launch and two fills; row_overflow may be null. The counts are not checked.
void sort_received_rows(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, int32_t* sizes,
                        int32_t* row_overflow, const int32_t* counts, const ReceivedRowsShape& shape,
                        cudaStream_t stream);

/// Rows of x before *first and from *last on = 0, one launch: 0 <= *first <= *last <= rows, row_bytes is even.
void clear_rows_outside(void* x, const int32_t* first, const int32_t* last, int64_t rows, int64_t row_bytes,
                        cudaStream_t stream);

/// As cpu::permute_rows, one launch; each token is read once.
void permute_rows(float* out, const float* x, const RowMap& map, int64_t hidden, cudaStream_t stream);
void permute_rows(bfloat16* out, const bfloat16* x, const RowMap& map, int64_t hidden, cudaStream_t stream);

/// As cpu::unpermute_rows, one launch.
void unpermute_rows(float* out, const float* y, const float* weight, const float* addend, const float* residual,
                    const RowMap& map, int64_t hidden, cudaStream_t stream);
void unpermute_rows(bfloat16* out, const bfloat16* y, const float* weight, const bfloat16* addend,
                    const bfloat16* residual, const RowMap& map, int64_t hidden, cudaStream_t stream);

/// As cpu::unpermute_rows_backward, one launch.
void unpermute_rows_backward(float* d_y, float* d_weight, const float* d_out, const float* y, const float* weight,
                             const RowMap& map, int64_t hidden, cudaStream_t stream);
void unpermute_rows_backward(bfloat16* d_y, float* d_weight, const bfloat16* d_out, const bfloat16* y,
                             const float* weight, const RowMap& map, int64_t hidden, cudaStream_t stream);

}  // namespace deeptitan::cuda
