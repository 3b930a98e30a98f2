#pragma once

#include <cstdint>

#include "config/model_config.h"

namespace deeptitan {

/// How many parameters a model has, and what one token costs.
struct ModelSize {
  int64_t parameters = 0;         // all, next-token-prediction modules not included
  int64_t active_parameters = 0;  // that one token meets: without the embedding's table and the experts not chosen
  int64_t mtp_parameters = 0;     // of the next-token-prediction modules, without the shared embedding and head
  int64_t mtp_active_parameters = 0;
};

ModelSize count_parameters(const ModelConfig& config);

/// Floating-point operations of a forward for one token that sees `context` tokens on average: 2 for each active
/// parameter, and the products of the attention (expanded keys and values). Norms, softmax and the like not counted.
double forward_flops_per_token(const ModelConfig& config, double context);

/// The same for decoding with a latent cache: absorbed projections, scores and sums over latents.
double decode_flops_per_token(const ModelConfig& config, double context);

/// Forward and backward of a training token in sequences of `seq_len`: three times the forward, with the
/// next-token-prediction modules. Recomputation is not counted: it is not useful work.
double training_flops_per_token(const ModelConfig& config, int64_t seq_len);

/// Bytes of a token's cache entry in all layers.
int64_t cache_bytes_per_token(const ModelConfig& config, int64_t element_size);

}  // namespace deeptitan
