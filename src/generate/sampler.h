#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/token_choice.h"

namespace deeptitan {

/// How the next token is chosen. The filters are applied in transformers' order: repetition penalty, temperature,
/// top-k, top-p, min-p.
struct SamplingOptions {
  double temperature = 1.0;  // logits are divided by it; 0: always the likeliest token
  int64_t top_k = 0;         // keep the k likeliest (and those equal to the k-th); 0: all
  double top_p = 1.0;        // keep the likeliest until their probabilities sum to p (Holtzman et al. 2020)
  double min_p = 0.0;        // keep those of at least min_p times the likeliest's probability (Nguyen et al. 2024)
  double repetition_penalty = 1.0;  // logits of earlier tokens: divided by it where positive, else multiplied (Keskar
                                    // et al. 2019, section 4.1); 1: none
  uint64_t seed = 0;
};

/// Throws a usage error that names the first option out of its range.
void check_sampling_options(const SamplingOptions& options);

/// A token that may come next, and how probable it is.
struct Candidate {
  int32_t id = 0;
  double score = 0;        // its logit, penalised and divided by the temperature
  uint64_t weight = 0;     // in proportion to e^score, the likeliest's 2^44 (kernels/sampling_math.h)
  double probability = 0;  // weight over the sum of all
};

/// Chooses next tokens. Weights are integers, so that their sums have no order and a GPU's are the same. The choice at
/// a place of a sequence is a function of the logits, the earlier tokens, the seed and the place: not of threads, nor
/// of what was drawn before. Keeps its memory from call to call.
class Sampler {
 public:
  /// `can_be_sampled` says for each id whether the tokenizer can decode it; ids from its size on are never chosen.
  Sampler(const SamplingOptions& options, std::vector<bool> can_be_sampled);

  /// The distribution that sample draws from: the tokens with a probability above zero, which sum to 1. Likeliest first
  /// (the lower id first where equal) where a filter needs that order, else by id. At temperature 0, one token.
  /// Valid until the next call. `earlier` are the tokens of the sequence so far, for the repetition penalty. Throws
  /// NotFinite that names the place and the first such token where a logit is not finite.
  std::span<const Candidate> distribution(std::span<const float> logits, std::span<const int32_t> earlier);

  /// The token at place `position` of its sequence.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> earlier, int64_t position);
  /// How that token is chosen where the logits lie, by ops/sampling.h: the same token. None where a temperature makes
  /// different logits the same score, so that their order is another.
  std::optional<TokenChoice> choice(int64_t position) const;

 private:
  void check_any(std::span<const float> logits) const;
  void keep_likeliest(std::span<const float> logits);
  void keep_top_k();
  void keep_top_p();
  void weigh();
  uint64_t total_weight() const;
  double least_weight() const;

  SamplingOptions options_;
  std::vector<bool> can_be_sampled_;
  uint64_t key_;
  std::vector<Candidate> candidates_;
  uint64_t total_ = 0;  // their weights' sum
  std::vector<float> penalized_;
  std::vector<bool> seen_;
};

}  // namespace deeptitan
