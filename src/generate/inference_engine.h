#pragma once

#include <cstdint>
#include <span>

#include "generate/model_runner.h"

namespace deeptitan {

struct InferenceOptions {
  Device device = {};
  DType compute = DType::kF32;  // of weights, activations and the cache: fp32 or bf16
  int64_t context_length = 0;   // most tokens of a sequence; 0: the model's max_position_embeddings
  int64_t prefill_chunk = 0;    // most tokens of one forward, for which workspace is planned; 0: see RunnerOptions
  int64_t page_size = 64;       // tokens of a cache page
  int64_t sequences = 1;        // that runner() runs in one batch
  int64_t batch_tokens = 0;     // that runner() runs in one batch; 0: as RunnerOptions says
  int64_t pages = 0;            // of the cache; 0: as many as `sequences` sequences of the context's length need
  std::optional<GroupedGemmStrategy> experts = {};  // see RunnerOptions
  RunnerRanks* ranks = nullptr;                     // see RunnerOptions
};

/// A model that is run on one sequence: prefill, then decode through the latent cache. Which tokens the cache holds is
/// known here, so that a later prompt that begins alike continues from it. It is a ModelRunner of one sequence; many at
/// once are a ModelRunner's and a BatchGenerator's.
class InferenceEngine {
 public:
  /// Plans and refuses as ModelRunner.
  InferenceEngine(const ModelConfig& config, const InferenceOptions& options)
      : runner_(config, {.device = options.device,
                         .compute = options.compute,
                         .context_length = options.context_length,
                         .sequences = options.sequences,
                         .prefill_chunk = options.prefill_chunk,
                         .batch_tokens = options.batch_tokens,
                         .page_size = options.page_size,
                         .pages = options.pages,
                         .experts = options.experts,
                         .ranks = options.ranks}) {}

  const ModelConfig& config() const { return runner_.config(); }
  const MemoryPlan& plan() const { return runner_.plan(); }
  /// Most tokens of one forward.
  int64_t prefill_chunk() const { return runner_.options().prefill_chunk; }

  /// What it runs on: for other sequences beside its own, which keeps its pages until truncate(0).
  ModelRunner& runner() { return runner_; }

  /// Takes the planned memory. Throws a usage error that lists the largest arenas where less is available.
  void allocate() { runner_.allocate(); }

  // One of these fills the weights, after allocate(). ---------------------------------------------------------------
  void load(const ModelDirectory& directory) { runner_.load(directory); }
  /// From the values of a model in training.
  void load(const DeepseekModel& trained) { runner_.load(trained); }
  /// Draws a new model, as TrainingEngine::initialize does: for measuring without a checkpoint.
  void initialize(uint64_t seed) { runner_.initialize(seed); }

  // The sequence. ---------------------------------------------------------------------------------------------------
  int64_t context_length() const { return runner_.options().context_length; }
  /// Tokens in the cache.
  std::span<const int32_t> tokens() const { return std::span(sequence_.tokens).first(sequence_.cached); }
  int64_t length() const { return sequence_.cached; }

  /// Appends tokens (at least one) and returns the logits behind the last: [V], valid until the next call. Throws Error
  /// where they do not fit in the context, or an id is outside the embedding.
  std::span<const float> prefill(std::span<const int32_t> tokens);
  /// prefill of one token.
  std::span<const float> decode(int32_t token) { return prefill({&token, 1}); }
  /// The same, but brings what `next` wants behind it; logits() where that has no token then.
  void decode(int32_t token, NextToken& next);
  std::span<const float> logits() const { return runner_.logits(0); }

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
  void set_profile(OpProfile* profile) { runner_.set_profile(profile); }
  /// While true, the first op whose output is not finite throws Error that names it.
  void set_check_finite(bool on) { runner_.set_check_finite(on); }

 private:
  void append(std::span<const int32_t> tokens);

  ModelRunner runner_;
  Sequence sequence_;
};

}  // namespace deeptitan
