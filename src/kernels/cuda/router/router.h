#pragma once

// The router on the GPU; kernels/cpu/router/router.h says what each function computes, and these make the same choices
// and give the same bits (a NaN's payload apart). All pointers are device pointers. Each is one launch; deterministic;
// nothing is allocated, waited for or read back, so all can be captured in a graph.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/router_options.h"

namespace deeptitan::cuda {

/// Device workspace of route_tokens, aligned to 8 bytes. It must be zero before the first launch that uses it, and
/// every launch leaves it zero again. Launches that may run at the same time need one each.
inline constexpr size_t kRouterWorkspaceBytes = kMaxExperts * sizeof(uint64_t);

/// Zeros it: a kernel, since a memory node of a graph takes three times as long.
void clear_router_workspace(void* workspace, cudaStream_t stream);

/// Whether so many tokens are routed by one block, which needs no workspace: it may be null.
inline bool route_in_one_block(int64_t tokens) {
  return tokens <= 16;
}

/// As cpu::route_tokens. Where one block routes them, the next launch may begin once the launch before this one is done
/// (dependent_launch.cuh). scores may be null (inference): half of the traffic is theirs.
void route_tokens(int32_t* expert_index, float* expert_weight, float* scores, int32_t* counts, const float* logits,
                  const float* bias, int64_t tokens, const RouterOptions& options, void* workspace,
                  cudaStream_t stream);

/// As cpu::route_tokens_to_given_experts, but the indices are not checked.
void route_tokens_to_given_experts(float* expert_weight, float* scores, int32_t* counts, const float* logits,
                                   const int32_t* expert_index, int64_t tokens, const RouterOptions& options,
                                   void* workspace, cudaStream_t stream);

/// As cpu::route_tokens_backward.
void route_tokens_backward(float* d_logits, const float* d_weight, const float* d_scores, const float* scores,
                           const int32_t* expert_index, int64_t tokens, const RouterOptions& options,
                           cudaStream_t stream);

}  // namespace deeptitan::cuda
