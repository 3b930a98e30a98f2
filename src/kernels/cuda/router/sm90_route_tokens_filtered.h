#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/router/router_arguments.h"

namespace deeptitan::cuda::sm90 {

/// Whether route_tokens_filtered serves these arguments: DeepSeek-V3's shape, logits and scores aligned to 16 bytes, on
/// a chip of compute capability 9.0.
bool can_filter_experts(const RouterArguments& a, bool sigmoid_and_two_best, int device);

/// As route_tokens, for arguments of which can_filter_experts is true.
void route_tokens_filtered(const RouterArguments& a, int multiprocessors, cudaStream_t stream);

}  // namespace deeptitan::cuda::sm90
