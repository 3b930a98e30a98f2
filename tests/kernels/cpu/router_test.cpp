#include "kernels/cpu/router/router.h"

#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "core/error.h"
#include "kernels/exact_math.h"
#include "kernels/router_reference.h"

namespace deeptitan::cpu {
namespace {

RouterOptions v3(int experts = 256, int top_k = 8, int groups = 8, int top_groups = 4) {
  return {RouterScoring::kSigmoid, RouterSelection::kGroupsByTwoBest, experts, top_k, groups, top_groups, true, 2.5f};
}
RouterOptions v2(int experts = 160, int top_k = 6, int groups = 8, int top_groups = 3) {
  return {RouterScoring::kSoftmax, RouterSelection::kGroupsByBest, experts, top_k, groups, top_groups, false, 16.0f};
}
RouterOptions v2_lite(int experts = 64, int top_k = 6) {
  return {RouterScoring::kSoftmax, RouterSelection::kTopK, experts, top_k, 1, 1, false, 1.0f};
}

std::vector<RouterOptions> many_options() {
  RouterOptions normalised = v2();
  normalised.normalize_top_k = true;
  RouterOptions plain = v3(16, 4, 4, 2);
  plain.normalize_top_k = false;
  return {v3(),
          v2(),
          v2_lite(),
          normalised,
          plain,
          v3(384, 32, 1, 1),
          v3(12, 1, 4, 1),
          v3(7, 3, 7, 4),
          v2(5, 5, 1, 1),
          v2(96, 6, 32, 3),
          v2_lite(1, 1),
          v2_lite(383, 9),
          // Each part by itself: combinations that no DeepSeek has.
          {RouterScoring::kSigmoid, RouterSelection::kTopK, 64, 6, 1, 1, true, 2.5f},
          {RouterScoring::kSigmoid, RouterSelection::kGroupsByBest, 160, 6, 8, 3, true, 2.5f},
          {RouterScoring::kSoftmax, RouterSelection::kGroupsByTwoBest, 256, 8, 8, 4, true, 1.0f}};
}

struct Routed {
  std::vector<int32_t> index;
  std::vector<float> weight;
  std::vector<float> scores;
  std::vector<int32_t> counts;
};

Routed route(const std::vector<float>& logits, const std::vector<float>& bias, const RouterOptions& options) {
  const size_t tokens = logits.size() / options.experts;
  Routed routed{std::vector<int32_t>(tokens * options.top_k, -1), std::vector<float>(tokens * options.top_k, -1),
                std::vector<float>(tokens * options.experts, -1), std::vector<int32_t>(options.experts, -1)};
  route_tokens(routed.index.data(), routed.weight.data(), routed.scores.data(), routed.counts.data(), logits.data(),
               bias.empty() ? nullptr : bias.data(), static_cast<int64_t>(tokens), options);
  return routed;
}

std::vector<float> random_values(size_t count, unsigned seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<double> row_of(const std::vector<float>& values, size_t row, int width) {
  return {values.begin() + row * width, values.begin() + (row + 1) * width};
}

// 1 ulp is 2^-23 of the value at most; the tests allow two.
TEST(ExactMath, ExpAndSigmoidAreWithinTwoUlp) {
  for (float x = -90.0f; x <= 0.0f; x += 0.000731f) {
    const double expected = std::exp(static_cast<double>(x));
    if (x >= -87.0f) {
      ASSERT_NEAR(exact_exp_of_nonpositive(x), expected, expected * 1.3e-7) << x;
    } else {
      ASSERT_EQ(exact_exp_of_nonpositive(x), 0.0f) << x;
    }
  }
  for (float x = -86.0f; x <= 90.0f; x += 0.00191f) {
    const double expected = 1.0 / (1.0 + std::exp(-static_cast<double>(x)));
    ASSERT_NEAR(exact_sigmoid(x), expected, expected * 2.4e-7) << x;
  }
  EXPECT_EQ(exact_exp_of_nonpositive(0.0f), 1.0f);
  EXPECT_EQ(exact_exp_of_nonpositive(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_EQ(exact_sigmoid(0.0f), 0.5f);
  EXPECT_EQ(exact_sigmoid(std::numeric_limits<float>::infinity()), 1.0f);
  EXPECT_NEAR(exact_sigmoid(-std::numeric_limits<float>::infinity()), 4.47e-38, 1e-40);
  EXPECT_TRUE(std::isnan(exact_sigmoid(std::nanf(""))));
}

TEST(RouteTokens, MatchesTheReference) {
  unsigned seed = 0;
  for (const RouterOptions& options : many_options()) {
    for (const size_t tokens : {0, 1, 37, 300}) {
      const std::vector<float> logits = random_values(tokens * options.experts, ++seed, 2.0f);
      const std::vector<float> bias = random_values(options.experts, ++seed, 0.2f);
      const Routed routed = route(logits, bias, options);
      std::vector<int32_t> counts(options.experts, 0);
      for (size_t t = 0; t < tokens; ++t) {
        const reference::RoutedToken expected =
            reference::route_token(row_of(logits, t, options.experts), row_of(bias, 0, options.experts), options);
        for (int e = 0; e < options.experts; ++e) {
          const double score = expected.scores[e];
          ASSERT_NEAR(routed.scores[t * options.experts + e], score, score * 1e-6);
        }
        for (int k = 0; k < options.top_k; ++k) {
          const size_t slot = t * options.top_k + k;
          ASSERT_EQ(routed.index[slot], expected.index[k]) << "token " << t << " choice " << k;
          ASSERT_NEAR(routed.weight[slot], expected.weight[k], expected.weight[k] * 1e-6);
          ++counts[routed.index[slot]];
        }
      }
      ASSERT_EQ(routed.counts, counts);
    }
  }
}

TEST(RouteTokens, TiesGoToTheLowerIndex) {
  for (const RouterOptions& options : many_options()) {
    const Routed routed = route(std::vector<float>(options.experts, 0.25f), {}, options);
    for (int k = 0; k < options.top_k; ++k) ASSERT_EQ(routed.index[k], k);
  }
  RouterOptions options = v3(8, 2, 4, 2);
  // Groups {0, 1} and {4, 5} and {6, 7} tie for the best; of the two lowest, experts 1 and 5 tie.
  EXPECT_EQ(route({1, 2, 0, 0, 1, 2, 2, 1}, {}, options).index, (std::vector<int32_t>{1, 5}));
}

TEST(RouteTokens, NoExpertOutsideTheKeptGroupsWhateverTheSign) {
  const RouterOptions options = v3(8, 4, 4, 2);
  const std::vector<float> bias(8, -3.0f);  // every rank is negative: a masked rank of 0 would win
  EXPECT_EQ(route({5, 5, 0, 0, 1, 1, 0, 0}, bias, options).index, (std::vector<int32_t>{0, 1, 4, 5}));
}

TEST(RouteTokens, BiasChoosesAndDoesNotWeigh) {
  RouterOptions options = v3(4, 1, 1, 1);
  options.scaling_factor = 1.0f;
  const Routed routed = route({0, 1, 2, 3}, {10, 0, 0, 0}, options);
  EXPECT_EQ(routed.index[0], 0);
  EXPECT_EQ(routed.weight[0], 0.5f);
}

TEST(RouteTokens, AnyLogitsGiveDistinctExperts) {
  const float nan = std::nanf("");
  const float infinity = std::numeric_limits<float>::infinity();
  for (const RouterOptions& options : many_options()) {
    std::vector<float> logits(options.experts * 6, nan);  // the first row is NaN throughout
    std::mt19937 random(5);
    for (size_t i = options.experts; i < logits.size(); ++i) {
      const float values[] = {nan, -nan, infinity, -infinity, 0.5f, -1e30f};
      logits[i] = values[random() % 6];
    }
    const Routed routed = route(logits, {}, options);
    const Routed again = route(logits, {}, options);
    EXPECT_EQ(routed.index, again.index);
    for (int t = 0; t < 6; ++t) {
      const std::set<int32_t> chosen(routed.index.begin() + t * options.top_k,
                                     routed.index.begin() + (t + 1) * options.top_k);
      ASSERT_EQ(chosen.size(), static_cast<size_t>(options.top_k));
      ASSERT_GE(*chosen.begin(), 0);
      ASSERT_LT(*chosen.rbegin(), options.experts);
    }
    for (int k = 0; k < options.top_k; ++k) ASSERT_EQ(routed.index[k], k);
  }
}

TEST(RouteTokens, DoesNotDependOnTheNumberOfThreads) {
  const RouterOptions options = v3();
  const std::vector<float> logits = random_values(513 * 256, 11);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const Routed one = route(logits, {}, options);
  omp_set_num_threads(5);
  const Routed five = route(logits, {}, options);
  omp_set_num_threads(threads);
  EXPECT_EQ(one.index, five.index);
  EXPECT_EQ(one.weight, five.weight);
  EXPECT_EQ(one.scores, five.scores);
  EXPECT_EQ(one.counts, five.counts);
}

TEST(RouteTokens, GivenExpertsGetTheSameWeights) {
  for (const RouterOptions& options : many_options()) {
    const std::vector<float> logits = random_values(40 * options.experts, 21);
    const Routed routed = route(logits, {}, options);
    Routed replayed = routed;
    std::fill(replayed.weight.begin(), replayed.weight.end(), -1.0f);
    std::fill(replayed.scores.begin(), replayed.scores.end(), -1.0f);
    std::fill(replayed.counts.begin(), replayed.counts.end(), -1);
    route_tokens_to_given_experts(replayed.weight.data(), replayed.scores.data(), replayed.counts.data(), logits.data(),
                                  routed.index.data(), 40, options);
    EXPECT_EQ(replayed.weight, routed.weight);
    EXPECT_EQ(replayed.scores, routed.scores);
    EXPECT_EQ(replayed.counts, routed.counts);
  }
}

std::string message_of(const RouterOptions& options) {
  try {
    check_router_options(options);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "no error";
}

TEST(RouteTokens, SaysWhichOptionIsOutOfRange) {
  EXPECT_EQ(message_of(v3()), "no error");
  EXPECT_EQ(message_of(v3(385)), "router: experts = 385, must be 1 to 384");
  EXPECT_EQ(message_of(v2_lite(4, 5)), "router: top_k = 5, must be 1 to 32 and at most the 4 experts");
  EXPECT_EQ(message_of(v3(256, 8, 7)), "router: groups = 7, must be 1 to 32 and divide the 256 experts");
  EXPECT_EQ(message_of(v3(256, 8, 8, 9)), "router: top_groups = 9, must be 1 to groups = 8");
  EXPECT_EQ(message_of(v3(16, 5, 8, 2)),
            "router: top_k = 5 but 2 of 8 groups hold only 4 of the 16 experts; raise top_groups or lower top_k");
  const RouterOptions options = v3(4, 1, 1, 1);
  float weight[2], scores[8];
  int32_t counts[4];
  const float logits[8] = {};
  const int32_t index[2] = {3, 4};
  try {
    route_tokens_to_given_experts(weight, scores, counts, logits, index, 2, options);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "router: the given choice 0 of token 1 is expert 4, must be 0 to 3");
  }
}

// d_logits against central differences of sum(d_weight * weight) + sum(d_scores * scores) in double.
TEST(RouteTokensBackward, MatchesCentralDifferences) {
  unsigned seed = 100;
  for (const RouterOptions& options : many_options()) {
    const int experts = options.experts;
    const size_t tokens = 3;
    const std::vector<float> logits = random_values(tokens * experts, ++seed);
    const std::vector<float> d_weight = random_values(tokens * options.top_k, ++seed);
    const std::vector<float> d_scores = random_values(tokens * experts, ++seed);
    const Routed routed = route(logits, {}, options);
    for (const bool with_scores : {false, true}) {
      std::vector<float> d_logits(tokens * experts, 1e9f);
      route_tokens_backward(d_logits.data(), d_weight.data(), with_scores ? d_scores.data() : nullptr,
                            routed.scores.data(), routed.index.data(), tokens, options);
      double error = 0;
      double norm = 1e-12;
      for (size_t t = 0; t < tokens; ++t) {
        const std::vector<int> index(routed.index.begin() + t * options.top_k,
                                     routed.index.begin() + (t + 1) * options.top_k);
        const auto value = [&](std::vector<double> row, int e, double step) {
          row[e] += step;
          const std::vector<double> scores = reference::router_scores(row, options);
          const std::vector<double> weight = reference::router_weights(scores, index, options);
          double sum = 0;
          for (int k = 0; k < options.top_k; ++k) sum += weight[k] * d_weight[t * options.top_k + k];
          for (int i = 0; with_scores && i < experts; ++i) sum += scores[i] * d_scores[t * experts + i];
          return sum;
        };
        const std::vector<double> row = row_of(logits, t, experts);
        for (int e = 0; e < experts; ++e) {
          const double expected = (value(row, e, 1e-5) - value(row, e, -1e-5)) / 2e-5;
          error += std::pow(d_logits[t * experts + e] - expected, 2);
          norm += std::pow(expected, 2);
        }
      }
      // One expert's softmax is 1 whatever its logit: there the gradient is rounding alone.
      EXPECT_LT(std::sqrt(error), std::sqrt(norm) * 2e-6 + 1e-6) << experts << " experts, top " << options.top_k;
    }
  }
}

TEST(SequenceAuxiliaryLoss, LossAndGradientMatchTheReference) {
  unsigned seed = 300;
  for (const RouterOptions& options : many_options()) {
    const int experts = options.experts;
    const std::vector<int> offsets{0, 5, 5, 6, 20};
    const size_t tokens = 20;
    const std::vector<float> logits = random_values(tokens * experts, ++seed);
    const Routed routed = route(logits, {}, options);
    std::vector<std::vector<double>> scores;
    std::vector<std::vector<int>> index;
    for (size_t t = 0; t < tokens; ++t) {
      scores.push_back(row_of(routed.scores, t, experts));
      index.emplace_back(routed.index.begin() + t * options.top_k, routed.index.begin() + (t + 1) * options.top_k);
    }
    const float alpha = 0.3f;
    const float gradient_scale = 0.5f;
    double loss = 10.0;
    std::vector<float> d_scores(tokens * experts, 1.0f);
    sequence_auxiliary_loss(&loss, d_scores.data(), routed.scores.data(), routed.index.data(), {offsets.data(), 4},
                            options, {alpha, gradient_scale});
    const double expected = reference::auxiliary_loss(scores, index, offsets, options, alpha);
    EXPECT_NEAR(loss, 10.0 + expected, 1e-6 * (10.0 + expected));
    double alone = 0;
    sequence_auxiliary_loss(&alone, nullptr, routed.scores.data(), routed.index.data(), {offsets.data(), 4}, options,
                            {alpha, gradient_scale});
    EXPECT_NEAR(alone, expected, 1e-6 * expected);
    for (const size_t t : {0, 5, 19}) {
      for (int e = 0; e < experts; e += 1 + experts / 7) {
        const auto moved = [&](double step) {
          std::vector<std::vector<double>> changed = scores;
          changed[t][e] += step;
          return reference::auxiliary_loss(changed, index, offsets, options, alpha);
        };
        const double gradient = gradient_scale * (moved(1e-4) - moved(-1e-4)) / 2e-4;
        ASSERT_NEAR(d_scores[t * experts + e], 1.0 + gradient, 2e-5) << t << ' ' << e;
      }
    }
  }
}

// Where every expert is chosen equally and scored equally, f = 1, P = 1 / E and the loss of a sequence is alpha.
TEST(SequenceAuxiliaryLoss, PerfectBalanceGivesAlphaForEachToken) {
  const RouterOptions options = v3(4, 2, 1, 1);
  const std::vector<float> scores(8, 0.7f);
  const std::vector<int32_t> index{0, 1, 2, 3};
  const std::vector<int32_t> offsets{0, 2};
  double loss = 0;
  sequence_auxiliary_loss(&loss, nullptr, scores.data(), index.data(), {offsets.data(), 1}, options, {0.25f, 1.0f});
  EXPECT_NEAR(loss, 2 * 0.25, 1e-7);
}

}  // namespace
}  // namespace deeptitan::cpu
