#pragma once

#include <cstdint>

#include "config/model_config.h"
#include "core/dtype.h"

// How many parameters a model has, and what one token costs: counted by the model itself. Its layers declare their
// parameters, and a forward or backward that plans (launches nothing) adds up what its ops say.

namespace deeptitan {

struct ModelSize {
  int64_t parameters = 0;             // all, next-token-prediction modules not included
  int64_t active_parameters = 0;      // that one token meets: without the embedding's table and the experts not chosen
  int64_t mtp_parameters = 0;         // of the next-token-prediction modules, without the shared embedding and head
  int64_t mtp_active_parameters = 0;  // with the shared head
};

ModelSize count_parameters(const ModelConfig& config);

/// Floating-point operations a token of a forward over one sequence of `tokens` tokens, with logits of every token:
/// matrix products and attention over expanded keys and values. Norms, softmax and the like are not counted.
double forward_flops_per_token(const ModelConfig& config, int64_t tokens);

/// The same for the token behind `cached` others in a latent cache: absorbed projections, scores and sums over latents.
double decode_flops_per_token(const ModelConfig& config, int64_t cached);

/// Forward and backward of a training token in sequences of `seq_len`, with the next-token-prediction modules.
/// Recomputation is not counted: it is not useful work.
double training_flops_per_token(const ModelConfig& config, int64_t seq_len);

/// Bytes of a token's cache entry in all layers.
int64_t cache_bytes_per_token(const ModelConfig& config, DType dtype);

}  // namespace deeptitan
