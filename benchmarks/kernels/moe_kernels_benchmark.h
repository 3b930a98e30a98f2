#pragma once

#include "harness.h"

namespace deeptitan::benchmark {

/// The router forward and backward, permute_indices and the sort of slots.
void benchmark_router(Session& session);
/// Token rows into the order of their experts and back, forward and backward.
void benchmark_permute(Session& session);
/// Norms, SwiGLU, rotation, the embedding and what else goes over rows once.
void benchmark_token_kernels(Session& session);
/// fp8 quantisation in all its forms.
void benchmark_quantization(Session& session);

}  // namespace deeptitan::benchmark
