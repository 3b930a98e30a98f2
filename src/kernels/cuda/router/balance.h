#pragma once

// The balance of experts on the GPU; kernels/cpu/router/balance.h and router.h say what each function computes, and
// these give the same bits. All pointers are device pointers. Deterministic; nothing is allocated, waited for or read
// back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/router_options.h"

namespace deeptitan::cuda {

/// As cpu::accumulate_counts.
void accumulate_counts(int32_t* load, const int32_t* counts, int64_t experts, cudaStream_t stream);

/// As cpu::count_choices.
void count_choices(int32_t* counts, int64_t experts, const int32_t* expert_index, int64_t slots, cudaStream_t stream);

/// As cpu::update_router_bias, for at most kMaxExperts experts; nothing where *valid is 0 (null: it is done).
void update_router_bias(float* bias, const int32_t* load, int64_t experts, float speed, const int32_t* valid,
                        cudaStream_t stream);

/// summary [5] = the members of cpu::load_range(load, bias) in their order; bias may be null.
void summarise_load(double* summary, const int32_t* load, const float* bias, int64_t experts, cudaStream_t stream);

/// Bytes of workspace of sequence_auxiliary_loss, aligned to 8.
int64_t sequence_auxiliary_loss_workspace(int64_t sequences, int64_t tokens, int experts);

/// As cpu::sequence_auxiliary_loss over `tokens` tokens, with *gradient_scale rounded to float as the gradient's scale
/// (read only where d_scores is not null); loss_sum may be null. A clearing and at most four launches.
void sequence_auxiliary_loss(double* loss_sum, float* d_scores, const float* scores, const int32_t* expert_index,
                             const SequenceOffsets& sequences, int64_t tokens, const RouterOptions& options,
                             float alpha, const double* gradient_scale, void* workspace, cudaStream_t stream);

}  // namespace deeptitan::cuda
