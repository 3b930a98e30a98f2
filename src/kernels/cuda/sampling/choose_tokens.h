#pragma once

// Tokens chosen where their logits lie, so that a step brings one number a sequence to the host and not a row of
// logits. All pointers are device pointers. Deterministic; a row's token does not depend on other rows. Three launches
// that follow closely upon one another; nothing is allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/token_choice.h"

namespace deeptitan::cuda {

/// Most tokens of a vocabulary: their weights' sum is less than 2^64.
inline constexpr int64_t kMostChoices = int64_t{1} << 19;

/// Bytes of workspace; of fewer rows not more.
int64_t choose_tokens_workspace(int64_t rows, int64_t vocab);

/// As cpu::choose_tokens, to the token.
void choose_tokens(int32_t* chosen, const float* logits, int64_t ld_logits, const TokenChoice* choices,
                   const uint32_t* allowed, int64_t rows, int64_t vocab, void* workspace, cudaStream_t stream);

}  // namespace deeptitan::cuda
