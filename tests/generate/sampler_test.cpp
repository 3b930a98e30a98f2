#include "generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "kernels/cpu/sampling/choose_tokens.h"
#include "kernels/sampling_math.h"
#include "support/compare.h"
#include "support/expect_error.h"

namespace deeptitan {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

std::vector<double> softmax(std::vector<double> x) {
  const double largest = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double& v : x) sum += v = std::exp(v - largest);
  for (double& v : x) v /= sum;
  return x;
}

// What transformers 5 does, step by step, each as its LogitsProcessor is written: a score of minus infinity removes a
// token, and the later steps see the distribution that the earlier ones left.
std::vector<double> reference(const std::vector<float>& logits, const std::vector<int32_t>& earlier,
                              const std::vector<bool>& allowed, const SamplingOptions& o) {
  std::vector<double> scores;
  for (size_t i = 0; i < logits.size(); ++i) {
    const bool seen = std::find(earlier.begin(), earlier.end(), static_cast<int32_t>(i)) != earlier.end();
    const auto penalty = static_cast<float>(o.repetition_penalty);
    const float score = !seen ? logits[i] : logits[i] < 0 ? logits[i] * penalty : logits[i] / penalty;
    scores.push_back(i < allowed.size() && allowed[i] ? score / o.temperature : kMinusInfinity);
  }
  const auto ascending = [&] {
    std::vector<size_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return scores[a] < scores[b] || (scores[a] == scores[b] && a > b); });
    return order;
  };
  if (o.top_k > 0 && o.top_k < static_cast<int64_t>(scores.size())) {
    const double kth = scores[ascending()[scores.size() - o.top_k]];
    for (double& s : scores) s = s < kth ? kMinusInfinity : s;
  }
  if (o.top_p < 1) {
    const std::vector<double> probabilities = softmax(scores);
    const std::vector<size_t> order = ascending();
    double cumulative = 0;
    for (size_t i = 0; i + 1 < order.size(); ++i) {  // the likeliest always stays
      cumulative += probabilities[order[i]];
      if (cumulative <= 1 - o.top_p) scores[order[i]] = kMinusInfinity;
    }
  }
  if (o.min_p > 0) {
    const std::vector<double> probabilities = softmax(scores);
    const double least = o.min_p * *std::max_element(probabilities.begin(), probabilities.end());
    for (size_t i = 0; i < scores.size(); ++i) scores[i] = probabilities[i] < least ? kMinusInfinity : scores[i];
  }
  return softmax(scores);
}

void expect_reference(const std::vector<float>& logits, const std::vector<int32_t>& earlier,
                      const std::vector<bool>& allowed, const SamplingOptions& options) {
  Sampler sampler(options, allowed);
  const std::vector<double> expected = reference(logits, earlier, allowed, options);
  std::vector<double> found(logits.size(), 0.0);
  for (const Candidate& c : sampler.distribution(logits, earlier)) {
    EXPECT_GT(c.probability, 0.0);
    found[c.id] = c.probability;
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(found[i], expected[i], 1e-12)
        << "token " << i << ", temperature " << options.temperature << ", top-k " << options.top_k << ", top-p "
        << options.top_p << ", min-p " << options.min_p << ", penalty " << options.repetition_penalty;
  }
}

TEST(Sampler, GivesTheReferencesDistributionForAllCombinations) {
  const std::vector<float> logits = testing::random_normal<float>(400, 5, 2.0);
  const std::vector<int32_t> earlier = {3, 399, 3, 17, 200};
  std::vector<bool> allowed(390, true);
  allowed[17] = allowed[100] = false;
  for (const double temperature : {0.3, 1.0, 1.7}) {
    for (const int64_t top_k : {0, 1, 7, 1000}) {
      for (const double top_p : {1.0, 0.95, 0.5, 1e-9}) {
        for (const double min_p : {0.0, 0.05, 1.0}) {
          for (const double penalty : {1.0, 1.3, 0.8}) {
            expect_reference(logits, earlier, allowed, {temperature, top_k, top_p, min_p, penalty});
          }
        }
      }
    }
  }
}

TEST(Sampler, AWeightIsTheExponentialInUnitsOfTheLikeliest) {
  EXPECT_EQ(sampling_weight(0.0), uint64_t{1} << 44);
  EXPECT_EQ(sampling_weight(-32.0), 0u);
  EXPECT_EQ(sampling_weight(std::nan("")), 0u);
  EXPECT_EQ(sampling_weight(kMinusInfinity), 0u);
  for (double x = -31.9; x < 0; x += 0.00137) {
    const double exact = std::exp(x) * 0x1p44;
    ASSERT_NEAR(static_cast<double>(sampling_weight(x)), exact, 0.5 + exact * 0x1p-50) << x;
    ASSERT_LE(sampling_weight(x - 1e-4), sampling_weight(x));
  }
  EXPECT_EQ(sampling_place(~uint64_t{0}, 7), 6u);
  EXPECT_EQ(sampling_place(uint64_t{1} << 63, 7), 3u);
  EXPECT_EQ(sampling_place(0, 7), 0u);
}

TEST(Sampler, TokensAsLikelyAsTheKthStay) {
  const std::vector<float> logits = {1, 2, 2, 2, 0};
  expect_reference(logits, {}, std::vector<bool>(5, true), {.top_k = 2});
  Sampler sampler({.top_k = 2}, std::vector<bool>(5, true));
  EXPECT_EQ(sampler.distribution(logits, {}).size(), 3u);
}

TEST(Sampler, SamplesOftenWhatIsLikely) {
  // The counts of 20000 draws: each within five standard deviations of its exact probability.
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f};
  Sampler sampler({.seed = 9}, std::vector<bool>(4, true));
  std::map<int32_t, int> count;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) ++count[sampler.sample(logits, {}, i)];
  const std::vector<double> p = reference(logits, {}, std::vector<bool>(4, true), {});
  for (int32_t id = 0; id < 4; ++id) {
    EXPECT_NEAR(count[id], kDraws * p[id], 5 * std::sqrt(kDraws * p[id] * (1 - p[id])));
  }
}

TEST(Sampler, DependsOnSeedAndPlaceAlone) {
  const std::vector<float> logits(1000, 0.0f);
  Sampler first({.seed = 1}, std::vector<bool>(1000, true));
  Sampler second({.seed = 1}, std::vector<bool>(1000, true));
  Sampler other({.seed = 2}, std::vector<bool>(1000, true));
  second.sample(logits, {}, 77);
  int same = 0;
  for (int64_t place = 0; place < 50; ++place) {
    const int32_t id = first.sample(logits, {}, place);
    EXPECT_EQ(second.sample(logits, {}, place), id);
    same += other.sample(logits, {}, place) == id ? 1 : 0;
  }
  EXPECT_LT(same, 5);
}

TEST(Sampler, TemperatureZeroTakesTheLikeliestThatCanBeDecoded) {
  const std::vector<float> logits = {1, 5, 3, 5, 9, 8};
  Sampler sampler({.temperature = 0}, {true, true, true, true, false});
  EXPECT_EQ(sampler.sample(logits, {}, 0), 1);  // the lower of two that are equal; 4 and 5 cannot be decoded
  Sampler penalized({.temperature = 0, .repetition_penalty = 2}, {true, true, true, true, false});
  const std::vector<int32_t> earlier = {1};
  EXPECT_EQ(penalized.sample(logits, earlier, 0), 3);
}

// What the kernels choose where the logits lie (the GPU's twin is held to this one in ChooseTokens.*).
TEST(Sampler, AChoiceIsTheTokenThatIsSampled) {
  constexpr int64_t kVocab = 1000;
  std::vector<bool> allowed(kVocab - 7, true);
  std::vector<uint32_t> words(choice_words(kVocab)), earlier_words(choice_words(kVocab));
  for (int64_t t = 0; t < std::ssize(allowed); ++t) {
    allowed[t] = t % 5 != 2;
    if (allowed[t]) words[t / 32] |= 1u << (t % 32);
  }
  std::vector<int32_t> earlier;
  for (int32_t t = 0; t < kVocab; t += 3) earlier.push_back(t);
  for (const int32_t t : earlier) earlier_words[t / 32] |= 1u << (t % 32);
  int64_t drawn = 0;
  const auto expect_same = [&](const SamplingOptions& options, bool few_values) {
    Sampler sampler(options, allowed);
    for (int64_t place = 0; place < 8; ++place) {
      std::vector<float> logits = testing::random_normal<float>(kVocab, 30 + ++drawn, 2.0);
      if (few_values) {  // many are equal
        for (float& logit : logits) logit = std::round(2 * logit) / 2;
      }
      const std::optional<TokenChoice> choice = sampler.choice(place);
      ASSERT_TRUE(choice);
      int32_t chosen = -2;
      cpu::choose_tokens(&chosen, logits.data(), kVocab, &*choice, words.data(), earlier_words.data(), 1, kVocab);
      ASSERT_EQ(chosen, sampler.sample(logits, earlier, place))
          << "temperature " << options.temperature << ", top-k " << options.top_k << ", top-p " << options.top_p
          << ", min-p " << options.min_p << ", penalty " << options.repetition_penalty << ", place " << place;
    }
  };
  for (const double temperature : {0.0, 1e-30, 0.2, 1.0, 3.0, 1e30}) {
    for (const int64_t top_k : {0, 1, 7, 300}) {
      for (const double top_p : {1.0, 0.999, 0.9, 1e-9}) {
        for (const double min_p : {0.0, 0.1, 1.0}) {
          for (const double penalty : {1.0, 1.3, 0.7}) {
            expect_same({temperature, top_k, top_p, min_p, penalty, 4}, false);
            expect_same({temperature, top_k, top_p, min_p, penalty, 4}, true);
          }
        }
      }
    }
  }
  for (const double temperature : {1e-201, 1e201}) {
    EXPECT_FALSE(Sampler({.temperature = temperature, .top_k = 3}, allowed).choice(0)) << "logits lose their order";
    expect_same({.temperature = temperature}, false);
  }
}

TEST(Sampler, LogitsThatAreNotFiniteAreRefusedByEverySampler) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const SamplingOptions& options : {SamplingOptions{},
                                         {.temperature = 0},
                                         {.top_k = 3},
                                         {.top_p = 0.5},
                                         {.min_p = 0.1},
                                         {.repetition_penalty = 2}}) {
    for (const float bad : {nan, infinity, -infinity}) {
      std::vector<float> logits = testing::random_normal<float>(100, 5, 2.0);
      logits[70] = logits[99] = bad;  // the last cannot be decoded
      std::vector<bool> allowed(100, true);
      allowed[99] = false;
      Sampler sampler(options, allowed);
      expect_runtime_error(
          [&] {
            sampler.sample(logits, std::vector<int32_t>{1, 2, 3}, 3);
          },
          fmt::format("the logits for the token at place 3 are not finite: 2 of 100, the first for "
                      "token 70 ({})",
                      bad));
    }
  }
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  const auto refuse = [](const SamplingOptions& options, const std::string& message) {
    expect_usage_error([&] { Sampler(options, {true}); }, message);
  };
  refuse({.temperature = -0.5}, "temperature = -0.5: expected 0 (the likeliest token) or more");
  refuse({.top_k = -1}, "top-k = -1: expected a number of tokens, or 0 for all");
  refuse({.top_p = 0}, "top-p = 0: expected more than 0 and at most 1");
  refuse({.min_p = 1.5}, "min-p = 1.5: expected 0 to 1");
  refuse({.repetition_penalty = 0}, "repetition-penalty = 0: expected more than 0; 1 is none");
}

}  // namespace
}  // namespace deeptitan
