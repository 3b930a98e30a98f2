#pragma once

// The router in double precision, token by token, as the papers write it. It shares nothing with the kernels.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/router_options.h"

namespace deeptitan::reference {

struct RoutedToken {
  std::vector<double> scores;  // [E]
  std::vector<int> index;      // [K]
  std::vector<double> weight;  // [K]
};

inline std::vector<double> router_scores(const std::vector<double>& logits, const RouterOptions& options) {
  std::vector<double> scores(logits.size());
  if (options.scoring == RouterScoring::kSigmoid) {
    for (size_t e = 0; e < logits.size(); ++e) scores[e] = 1.0 / (1.0 + std::exp(-logits[e]));
    return scores;
  }
  const double maximum = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (double logit : logits) sum += std::exp(logit - maximum);
  for (size_t e = 0; e < logits.size(); ++e) scores[e] = std::exp(logits[e] - maximum) / sum;
  return scores;
}

inline std::vector<double> router_weights(const std::vector<double>& scores, const std::vector<int>& index,
                                          const RouterOptions& options) {
  std::vector<double> weight;
  for (int e : index) weight.push_back(scores[e]);
  const bool normalised = options.normalize_top_k && options.top_k > 1;
  const double sum = std::accumulate(weight.begin(), weight.end(), 1e-20);
  const bool scaled = options.scoring == RouterScoring::kSigmoid || !normalised;
  for (double& w : weight) w *= (scaled ? options.scaling_factor : 1.0) / (normalised ? sum : 1.0);
  return weight;
}

/// The positions of the `count` largest values, ties to the lower position.
inline std::vector<int> largest_positions(const std::vector<double>& values, int count) {
  std::vector<int> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return values[a] > values[b]; });
  order.resize(count);
  return order;
}

inline RoutedToken route_token(const std::vector<double>& logits, const std::vector<double>& bias,
                               const RouterOptions& options) {
  RoutedToken token;
  token.scores = router_scores(logits, options);
  std::vector<double> rank = token.scores;
  if (!bias.empty()) {
    for (size_t e = 0; e < rank.size(); ++e) rank[e] += bias[e];
  }
  if (options.selection != RouterSelection::kTopK) {
    const int size = options.experts / options.groups;
    std::vector<double> group_rank;
    for (int g = 0; g < options.groups; ++g) {
      std::vector<double> members(rank.begin() + g * size, rank.begin() + (g + 1) * size);
      std::sort(members.rbegin(), members.rend());
      const bool two = options.selection == RouterSelection::kGroupsByTwoBest && size > 1;
      group_rank.push_back(members[0] + (two ? members[1] : 0.0));
    }
    const std::vector<int> kept = largest_positions(group_rank, options.top_groups);
    for (int e = 0; e < options.experts; ++e) {
      if (std::find(kept.begin(), kept.end(), e / size) == kept.end()) {
        rank[e] = -std::numeric_limits<double>::infinity();
      }
    }
  }
  token.index = largest_positions(rank, options.top_k);
  token.weight = router_weights(token.scores, token.index, options);
  return token;
}

/// alpha * sum over sequences of T * sum_i f_i P_i, with the chosen experts held fixed.
inline double auxiliary_loss(const std::vector<std::vector<double>>& scores, const std::vector<std::vector<int>>& index,
                             const std::vector<int>& offsets, const RouterOptions& options, double alpha) {
  double loss = 0;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    const double tokens = offsets[s + 1] - offsets[s];
    for (int e = 0; e < options.experts; ++e) {
      double chosen = 0;
      double share = 0;
      for (int t = offsets[s]; t < offsets[s + 1]; ++t) {
        chosen += static_cast<double>(std::count(index[t].begin(), index[t].end(), e));
        const double sum = options.scoring == RouterScoring::kSigmoid
                               ? std::accumulate(scores[t].begin(), scores[t].end(), 1e-20)
                               : 1.0;
        share += scores[t][e] / sum;
      }
      if (tokens > 0) loss += tokens * alpha * (options.experts / (options.top_k * tokens) * chosen) * (share / tokens);
    }
  }
  return loss;
}

}  // namespace deeptitan::reference
