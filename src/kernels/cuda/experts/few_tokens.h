#pragma once

// A mixture of experts for few tokens, as in decoding: bound by reading the weights of the experts that are chosen, so
// rows are neither sorted nor moved; a warp reads whole columns of the weights of a token's choices by their index.
// Operands bf16, sums in fp32, rounded where the products, SwiGLU and the weighted sum one after another round. All
// pointers are device pointers. Deterministic: a token's result does not depend on those beside it. Nothing is
// allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cuda {

/// Tokens that are few.
inline constexpr int64_t kFewMixtureTokens = 16;

/// T tokens, D hidden, E experts, K experts a token, I width of an expert, S of the shared expert (0: there is none).
struct FewTokensMixture {
  bfloat16* out = nullptr;             // [T, D]
  const bfloat16* residual = nullptr;  // [T, D]
  const bfloat16* x = nullptr;         // [T, D]
  int64_t tokens = 0;
  int64_t hidden = 0;
  const float* router = nullptr;  // [E, D]
  float* logits = nullptr;        // [T, E]
  int64_t experts = 0;
  const int32_t* expert_index = nullptr;  // [T, K]
  const float* expert_weight = nullptr;   // [T, K]
  int64_t top_k = 0;
  const bfloat16* gate_up = nullptr;  // [E, 2 I, D]
  const bfloat16* down = nullptr;     // [E, D, I]
  int64_t width = 0;
  const bfloat16* shared_gate_up = nullptr;  // [2 S, D]
  const bfloat16* shared_down = nullptr;     // [D, S]
  int64_t shared_width = 0;
  bfloat16* activated = nullptr;         // workspace, [T, K, I]
  bfloat16* shared_activated = nullptr;  // workspace, [T, S]
  bfloat16* shared_result = nullptr;     // workspace, [T, D]
};

/// Whether the tokens are few, and rows can be read 16 bytes at a time.
bool few_tokens_mixture_fits(const FewTokensMixture& mixture);

/// logits = x router^T in the order of K, as the plain product has them; and the shared expert's activations. One
/// launch.
void few_tokens_logits(const FewTokensMixture& mixture, cudaStream_t stream);

/// out[t] = residual[t] + sum over k of weight[t, k] * expert[t, k](x[t]), in the order of k, plus the shared expert's
/// result, whose activations few_tokens_logits has left. Two launches, behind few_tokens_logits and the routing, which
/// is one launch that lets the next begin when it has waited for the one before (router.h): the shared expert does not
/// wait for it.
void few_tokens_experts(const FewTokensMixture& mixture, cudaStream_t stream);

}  // namespace deeptitan::cuda
