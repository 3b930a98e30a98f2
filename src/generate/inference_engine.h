#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/arena.h"
#include "core/execution_context.h"
#include "core/memory_plan.h"
#include "model/deepseek/deepseek_model.h"

namespace deeptitan {

class ModelDirectory;

struct InferenceOptions {
  Device device = {};
  DType compute = DType::kF32;   // of weights, activations and the cache: fp32 or bf16
  int64_t context_length = 0;    // most tokens of a sequence; 0: the model's max_position_embeddings
  int64_t prefill_chunk = 1024;  // most tokens of one forward: what the workspace is planned for
  int64_t page_size = 64;        // tokens of a cache page
};

/// "bf16", "fp32" (in any spelling), or "auto" (bf16 on a GPU and where this processor multiplies it natively, else
/// fp32) as a dtype.
/// Throws a usage error for any other word.
DType parse_compute_dtype(std::string_view word, Device device = {});

/// A model that is run on one sequence: prefill, then decode through the latent cache. Which tokens the cache holds is
/// known here, so that a later prompt that begins alike continues from it. Nothing is allocated after allocate().
///
/// Dynamic NTK positions follow the longest length in use, as in transformers: entries cached at a shorter length keep
/// the rotation they were written with.
class InferenceEngine {
 public:
  /// Plans by running prefill and decode without their kernels. Throws a usage error where context_length is beyond the
  /// model's max_position_embeddings.
  InferenceEngine(const ModelConfig& config, const InferenceOptions& options);
  ~InferenceEngine();

  const ModelConfig& config() const { return model_.config(); }
  const InferenceOptions& options() const { return options_; }
  const MemoryPlan& plan() const { return plan_; }

  /// Takes the planned memory. Throws a usage error that lists the largest arenas where less is available.
  void allocate();

  // One of these fills the weights, after allocate(). ---------------------------------------------------------------
  void load(const ModelDirectory& directory);
  /// From the values of a model in training.
  void load(const DeepseekModel& trained);
  /// Draws a new model, as TrainingEngine::initialize does: for measuring without a checkpoint.
  void initialize(uint64_t seed);

  // The sequence. ---------------------------------------------------------------------------------------------------
  int64_t context_length() const { return options_.context_length; }
  /// Tokens in the cache.
  std::span<const int32_t> tokens() const { return tokens_; }
  int64_t length() const { return static_cast<int64_t>(tokens_.size()); }

  /// Appends tokens (at least one) and returns the logits behind the last: [V], valid until the next call. Throws Error
  /// where they do not fit in the context, or an id is outside the embedding.
  std::span<const float> prefill(std::span<const int32_t> tokens);
  /// prefill of one token.
  std::span<const float> decode(int32_t token) { return prefill({&token, 1}); }

  /// Appends tokens, and gives for each the log-probability of what follows it, targets[i] (natural logarithm), and
  /// the likeliest follower. A target of -1 asks for nothing and gets 0.
  void score(std::span<const int32_t> tokens, std::span<const int32_t> targets, std::span<float> logprobs,
             std::span<int32_t> likeliest);

  /// Forgets all tokens from place `length` on.
  void truncate(int64_t length);
  /// Keeps what the cache shares with the beginning of `tokens` and forgets the rest; at least the last of `tokens` is
  /// left to be run, whose logits are wanted. Returns how many tokens are kept.
  int64_t keep_common_prefix(std::span<const int32_t> tokens);

  /// While set, time and floating-point operations are kept by op; nullptr ends it.
  void set_profile(OpProfile* profile) { ctx_.profile = profile; }
  /// While true, the first op whose output is not finite throws Error that names it.
  void set_check_finite(bool on) { ctx_.check_finite = on; }

 private:
  void take_memory();
  BatchLayout lay_out(int64_t first, int64_t count, int64_t sequence_length) const;
  void fill_inputs(std::span<const int32_t> tokens, int64_t first);
  void forward_last_logits(const BatchLayout& batch);
  void forward_logprobs(const BatchLayout& batch, const Tensor& logprobs, const Tensor& likeliest,
                        const Tensor& targets);
  void check_appendable(std::span<const int32_t> tokens) const;

  InferenceOptions options_;
  DeepseekModel model_;
  std::vector<std::unique_ptr<Arena>> arenas_;
  Arena* parameters_;
  Arena* prepared_;
  Arena* cache_;
  Arena* inputs_;
  Arena* workspace_;
  MemoryPlan plan_;

  ExecutionContext ctx_;
  std::vector<LayerCache> layer_cache_;
  Tensor token_ids_, positions_, cache_slot_, visible_, page_table_, document_offset_, targets_, logprobs_, likeliest_;
  Tensor logits_;
  std::vector<int32_t> tokens_;
  std::vector<float> host_logits_;
};

}  // namespace deeptitan
