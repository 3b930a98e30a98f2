#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/router/router_arguments.h"

namespace deeptitan::cuda {

/// Whether route_tokens_filtered serves these arguments: DeepSeek-V3's shape, rows aligned to 16 bytes.
bool can_filter_experts(const RouterArguments& a, bool sigmoid);

/// As route_tokens, for arguments of which can_filter_experts is true.
void route_tokens_filtered(const RouterArguments& a, int multiprocessors, cudaStream_t stream);

}  // namespace deeptitan::cuda
