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

/// The arguments of cpu::choose_tokens.
struct RowsOfLogits {
  const float* logits = nullptr;
  int64_t stride = 0;  // elements between rows
  const TokenChoice* choices = nullptr;
  const uint32_t* allowed = nullptr;
  const uint32_t* earlier = nullptr;
  int64_t vocab = 0;
};

/// As cpu::choose_tokens, to the token.
void choose_tokens(int32_t* chosen, const RowsOfLogits& rows, int64_t count, void* workspace, cudaStream_t stream);

}  // namespace deeptitan::cuda
