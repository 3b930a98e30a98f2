#pragma once

// Rows of tokens straight into the groups of the experts of other ranks and back, on the GPU. What lies in the window
// is named by its address in this rank's memory; it lies at the same offset in every rank's. Deterministic; nothing is
// allocated or read back, so all can be captured in a graph.
//
// What is pushed or pulled is right only between the barriers that the caller sets (barrier_ranks, kAcquireRelease):
// one before, so that the peers' memory is free or has been written, and one behind, so that what was pushed is there
// and what was pulled may be overwritten. agree_on_rows is such a barrier too.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/peer_exchange.h"

namespace deeptitan::cuda {

/// Tells every rank this rank's counts [E] and learns theirs. Of each expert's rows those of rank 0 come first, then
/// those of rank 1; the groups of a rank's experts follow one another. All ranks have the same counts, so that where
/// any has no room all of them say so. `all_counts` [ranks, E] is workspace. One launch.
void agree_on_rows(const AgreedRows& agreed, const int32_t* counts, int32_t* all_counts, const ExpertRowsShape& shape,
                   const PeerExchange& peers, cudaStream_t stream);

/// place[slot], from the slots' rows and each expert's first in this rank's own order by expert. One launch.
void place_slots(int32_t* place, const int32_t* expert_index, const int32_t* row_of_slot, const int32_t* group_offset,
                 const int32_t* first_row, const ExpertRowsShape& shape, int experts_of_rank, cudaStream_t stream);

/// rows[place of slot (t, k)] = x[t], and row_weight[the same] = weight[t, k] where there are weights. One launch; each
/// token is read once.
void push_rows(float* rows, float* row_weight, const float* x, const float* weight, const PlacedSlots& slots,
               const PeerWindow& window, int64_t hidden, cudaStream_t stream);
void push_rows(bfloat16* rows, float* row_weight, const bfloat16* x, const float* weight, const PlacedSlots& slots,
               const PeerWindow& window, int64_t hidden, cudaStream_t stream);

/// out[t] = sum over k of weight[t, k] * rows[place of slot (t, k)] + addend[t], as unpermute_rows. One launch.
void pull_rows(float* out, const float* rows, const float* weight, const float* addend, const PlacedSlots& slots,
               const PeerWindow& window, int64_t hidden, cudaStream_t stream);
void pull_rows(bfloat16* out, const bfloat16* rows, const float* weight, const bfloat16* addend,
               const PlacedSlots& slots, const PeerWindow& window, int64_t hidden, cudaStream_t stream);

/// out[slot] = values[place of the slot]; 0 where it has none. One launch.
void pull_values(float* out, const float* values, const PlacedSlots& slots, const PeerWindow& window,
                 cudaStream_t stream);

/// For rows r < *count:  d_weight[r] = d_rows[r] . y[r],  d_rows[r] *= weight[r]: the gradients of weighted rows, as
/// unpermute_rows_backward. One launch.
void weight_rows_backward(float* d_rows, float* d_weight, const float* y, const float* weight, const int32_t* count,
                          int64_t capacity, int64_t hidden, cudaStream_t stream);
void weight_rows_backward(bfloat16* d_rows, float* d_weight, const bfloat16* y, const float* weight,
                          const int32_t* count, int64_t capacity, int64_t hidden, cudaStream_t stream);

}  // namespace deeptitan::cuda
