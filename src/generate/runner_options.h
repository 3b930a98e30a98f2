#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "config/model_config.h"
#include "core/device.h"
#include "core/dtype.h"
#include "kernels/grouped_gemm_options.h"

namespace deeptitan {

class RunnerRanks;

struct RunnerOptions {
  Device device = {};
  DType compute = DType::kF32;  // of weights, activations and the cache: f32 or bf16
  int64_t context_length = 0;   // most tokens of a sequence; 0: the model's max_position_embeddings
  int64_t sequences = 1;        // most sequences of one batch
  int64_t prefill_chunk = 0;    // most tokens of one prompt in a batch; 0: usual_prefill_chunk, or fewer to fit
  int64_t batch_tokens = 0;     // most tokens of a batch; at least (0: exactly) room for one such chunk and for one
                                // token of each other sequence
  int64_t page_size = 64;       // tokens of a cache page
  bool graphs = true;           // on a GPU a batch of one token a sequence is captured when it runs a second time
  int64_t pages = 0;            // of the cache; 0: as many as `sequences` sequences of the context's length need
  /// How a GPU multiplies experts; left out: in bf16, by what there is for the model's widths.
  std::optional<GroupedGemmStrategy> experts = {};
  /// The ranks that hold the model together, of which this is the first: it alone makes calls, and the others run what
  /// it tells them (follow_first_rank). nullptr: all is here. They outlive the runner.
  RunnerRanks* ranks = nullptr;
};

/// Tokens of one prompt in a batch where nothing else is asked for. A GPU reads all experts for each, and multiplies
/// more rows of each expert at once the more tokens there are.
int64_t usual_prefill_chunk(Device device);

/// `options` with what is left to the model filled in. Throws a usage error for what cannot be.
RunnerOptions complete_options(RunnerOptions options, const ModelConfig& config);

/// "bf16", "fp32" (in any spelling), or "auto" (bf16 on a GPU and where this processor multiplies it natively, else
/// fp32) as a dtype. Throws a usage error for any other word.
DType parse_compute_dtype(std::string_view word, Device device = {});

/// A strategy's name, or "auto": none is asked for. Throws a usage error for any other word.
std::optional<GroupedGemmStrategy> parse_expert_products(std::string_view word);

}  // namespace deeptitan
