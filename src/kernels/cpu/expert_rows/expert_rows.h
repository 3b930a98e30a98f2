#pragma once

// The CPU's twin of kernels/cuda/expert_rows, for ranks that are threads of one process: the same places, the same
// bits. What lies in the window is named by its address in this rank's memory.

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/peer_exchange.h"

namespace deeptitan::cpu {

/// Returns once every rank has called it; what any rank wrote before is seen by all behind it. A wait that is longer
/// than the time-out sets the error word, and nobody waits any more.
void meet_ranks(const PeerExchange& peers);

/// As cuda::agree_on_rows.
void agree_on_rows(const AgreedRows& agreed, const int32_t* counts, int32_t* all_counts, const ExpertRowsShape& shape,
                   const PeerExchange& peers);

/// As cuda::place_slots.
void place_slots(int32_t* place, const int32_t* expert_index, const int32_t* row_of_slot, const int32_t* group_offset,
                 const int32_t* first_row, const ExpertRowsShape& shape, int experts_of_rank);

/// As cuda::push_rows.
void push_rows(float* rows, float* row_weight, const float* x, const float* weight, const PlacedSlots& slots,
               const cuda::PeerWindow& window, int64_t hidden);
void push_rows(bfloat16* rows, float* row_weight, const bfloat16* x, const float* weight, const PlacedSlots& slots,
               const cuda::PeerWindow& window, int64_t hidden);

/// As cuda::pull_rows.
void pull_rows(float* out, const float* rows, const float* weight, const float* addend, const PlacedSlots& slots,
               const cuda::PeerWindow& window, int64_t hidden);
void pull_rows(bfloat16* out, const bfloat16* rows, const float* weight, const bfloat16* addend,
               const PlacedSlots& slots, const cuda::PeerWindow& window, int64_t hidden);

/// As cuda::pull_values.
void pull_values(float* out, const float* values, const PlacedSlots& slots, const cuda::PeerWindow& window);

/// As cuda::weight_rows_backward.
void weight_rows_backward(float* d_rows, float* d_weight, const float* y, const float* weight, const int32_t* count,
                          int64_t hidden);
void weight_rows_backward(bfloat16* d_rows, float* d_weight, const bfloat16* y, const float* weight,
                          const int32_t* count, int64_t hidden);

}  // namespace deeptitan::cpu
