#include "generate/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "core/random.h"
#include "generate/not_finite.h"
#include "kernels/sampling_math.h"

namespace deeptitan {
namespace {

bool likelier(const Candidate& a, const Candidate& b) {
  return a.score != b.score ? a.score > b.score : a.id < b.id;
}

// A distribution that holds a NaN has no order and no sum, whatever is drawn from it.
void check_finite(std::span<const float> logits, size_t position) {
  // A float whose exponent's bits are all set is none; most have none, which is quickly seen.
  bool any = false;
  for (const float logit : logits) any |= (std::bit_cast<uint32_t>(logit) & 0x7f800000u) == 0x7f800000u;
  if (!any) return;
  size_t count = 0;
  size_t first = 0;
  for (size_t id = logits.size(); id-- > 0;) {
    if (std::isfinite(logits[id])) continue;
    ++count;
    first = id;
  }
  throw NotFinite(
      fmt::format("the logits for the token at place {} are not finite: {} of {}, the first for token {} ({})",
                  position, count, logits.size(), first, logits[first]));
}

}  // namespace

void check_sampling_options(const SamplingOptions& o) {
  DT_CHECK_USAGE(std::isfinite(o.temperature) && o.temperature >= 0,
                 "temperature = {}: expected 0 (the likeliest token) or more", o.temperature);
  DT_CHECK_USAGE(o.top_k >= 0, "top-k = {}: expected a number of tokens, or 0 for all", o.top_k);
  DT_CHECK_USAGE(o.top_p > 0 && o.top_p <= 1, "top-p = {}: expected more than 0 and at most 1", o.top_p);
  DT_CHECK_USAGE(o.min_p >= 0 && o.min_p <= 1, "min-p = {}: expected 0 to 1", o.min_p);
  DT_CHECK_USAGE(std::isfinite(o.repetition_penalty) && o.repetition_penalty > 0,
                 "repetition-penalty = {}: expected more than 0; 1 is none", o.repetition_penalty);
}

Sampler::Sampler(const SamplingOptions& options, std::vector<bool> can_be_sampled)
    : options_(options), can_be_sampled_(std::move(can_be_sampled)), key_(random_key("generate/sample", options.seed)) {
  check_sampling_options(options_);
}

std::span<const Candidate> Sampler::distribution(std::span<const float> logits, std::span<const int32_t> earlier) {
  check_finite(logits, earlier.size());
  if (options_.repetition_penalty != 1.0) {
    const auto penalty = static_cast<float>(options_.repetition_penalty);
    penalized_.assign(logits.begin(), logits.end());
    seen_.assign(logits.size(), false);
    for (const int32_t id : earlier) {
      if (seen_[id]) continue;
      seen_[id] = true;
      penalized_[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    }
    logits = penalized_;
  }
  candidates_.clear();
  const size_t count = std::min(logits.size(), can_be_sampled_.size());
  if (options_.temperature == 0) {
    keep_likeliest(logits.first(count));
    return candidates_;
  }
  for (size_t id = 0; id < count; ++id) {
    if (can_be_sampled_[id]) candidates_.push_back({.id = static_cast<int32_t>(id), .score = logits[id]});
  }
  check_any(logits);
  for (Candidate& c : candidates_) c.score /= options_.temperature;
  if (options_.top_k > 0) keep_top_k();
  weigh();
  if (options_.top_p < 1) keep_top_p();
  if (options_.min_p > 0) {
    std::erase_if(candidates_, [&](const Candidate& c) { return static_cast<double>(c.weight) < least_weight(); });
  }
  total_ = total_weight();
  for (Candidate& c : candidates_) c.probability = static_cast<double>(c.weight) / static_cast<double>(total_);
  return candidates_;
}

void Sampler::check_any(std::span<const float> logits) const {
  DT_CHECK(!candidates_.empty(), "none of the model's {} tokens can be decoded by the tokenizer", logits.size());
}

// The lower id where two are equal.
void Sampler::keep_likeliest(std::span<const float> logits) {
  float largest = -std::numeric_limits<float>::infinity();
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] <= largest || !can_be_sampled_[id]) continue;
    largest = logits[id];
    candidates_.assign(1, {.id = static_cast<int32_t>(id), .score = largest, .weight = 1, .probability = 1.0});
  }
  check_any(logits);
  total_ = 1;
}

void Sampler::keep_top_k() {
  if (static_cast<size_t>(options_.top_k) >= candidates_.size()) return;
  const auto kth = candidates_.begin() + options_.top_k - 1;
  std::nth_element(candidates_.begin(), kth, candidates_.end(), likelier);
  const double threshold = kth->score;
  std::erase_if(candidates_, [&](const Candidate& c) { return c.score < threshold; });
  std::sort(candidates_.begin(), candidates_.end(), likelier);
}

// A token stays while those before it do not reach p. The likeliest are found in growing blocks: few tokens hold most
// of the probability, so a large vocabulary is seldom sorted whole.
void Sampler::keep_top_p() {
  const double enough = options_.top_p * static_cast<double>(total_weight());
  uint64_t before = 0;
  size_t sorted = 0;
  size_t kept = 0;
  for (size_t block = 64; sorted < candidates_.size() && static_cast<double>(before) < enough; block *= 4) {
    const size_t end = std::min(candidates_.size(), sorted + block);
    std::partial_sort(candidates_.begin() + static_cast<int64_t>(sorted),
                      candidates_.begin() + static_cast<int64_t>(end), candidates_.end(), likelier);
    sorted = end;
    while (kept < end && static_cast<double>(before) < enough) before += candidates_[kept++].weight;
  }
  candidates_.resize(kept);
}

// From scores to weights; tokens that are too unlikely to have one are left out.
void Sampler::weigh() {
  double largest = candidates_.front().score;
  for (const Candidate& c : candidates_) largest = std::max(largest, c.score);
  for (Candidate& c : candidates_) c.weight = sampling_weight(c.score == largest ? 0.0 : c.score - largest);
  std::erase_if(candidates_, [](const Candidate& c) { return c.weight == 0; });
}

double Sampler::least_weight() const {
  return options_.min_p * static_cast<double>(uint64_t{1} << kSamplingBits);
}

uint64_t Sampler::total_weight() const {
  uint64_t total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  return total;
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> earlier, int64_t position) {
  const std::span<const Candidate> candidates = distribution(logits, earlier);
  uint64_t place = sampling_place(random_bits_64(key_, static_cast<uint64_t>(position)), total_);
  auto chosen = candidates.begin();
  for (; place >= chosen->weight; ++chosen) place -= chosen->weight;
  return chosen->id;
}

std::optional<TokenChoice> Sampler::choice(int64_t position) const {
  const TokenChoice choice = {
      .temperature = options_.temperature,
      .least_weight = least_weight(),
      .bits = random_bits_64(key_, static_cast<uint64_t>(position)),
      .top_p = options_.top_p,
      .top_k = static_cast<int32_t>(std::min<int64_t>(options_.top_k, std::numeric_limits<int32_t>::max())),
      .penalty = static_cast<float>(options_.repetition_penalty)};
  // Any two logits over these are two numbers, neither infinite nor without all their bits.
  constexpr double kLeast = 1e-200, kMost = 1e200;
  if (draws_by_order(choice) && !(kLeast <= choice.temperature && choice.temperature <= kMost)) return std::nullopt;
  return choice;
}

}  // namespace deeptitan
