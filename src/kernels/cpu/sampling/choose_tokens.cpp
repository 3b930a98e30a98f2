#include "kernels/cpu/sampling/choose_tokens.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "kernels/cpu/parallel.h"

namespace deeptitan::cpu {
namespace {

struct Scored {
  int32_t id = 0;
  double score = 0;
  uint64_t weight = 0;
};

bool likelier(const Scored& a, const Scored& b) {
  return a.score != b.score ? a.score > b.score : a.id < b.id;
}

bool bit_of(const uint32_t* words, int64_t token) {
  return (words[token / 32] >> (token % 32) & 1) != 0;
}

/// A row as it is chosen from: the tokens that may be, with their logits after the penalty.
struct Row {
  const float* logits;
  const TokenChoice& choice;
  const uint32_t* allowed;
  const uint32_t* earlier;  // nullptr: no penalty
  int64_t vocab;

  bool may_be(int64_t token) const { return bit_of(allowed, token); }
  float logit(int64_t token) const {
    const float logit = logits[token];
    return earlier != nullptr && bit_of(earlier, token) ? penalized_logit(choice, logit) : logit;
  }
};

bool all_finite(const float* logits, int64_t vocab) {
  bool any = false;
  for (int64_t v = 0; v < vocab; ++v) any |= (std::bit_cast<uint32_t>(logits[v]) & 0x7f800000u) == 0x7f800000u;
  return !any;
}

void keep_top_k(std::vector<Scored>& tokens, int64_t k) {
  if (k >= std::ssize(tokens)) return;
  const auto kth = tokens.begin() + k - 1;
  std::nth_element(tokens.begin(), kth, tokens.end(), likelier);
  const double least = kth->score;
  std::erase_if(tokens, [&](const Scored& token) { return token.score < least; });
}

// Sorts blocks that grow, from the likeliest on, until they hold what is looked for: few tokens do.
class LikeliestFirst {
 public:
  explicit LikeliestFirst(std::vector<Scored>& tokens) : tokens_(tokens) {}
  const Scored& operator[](size_t place) {
    while (place >= sorted_) {
      const size_t end = std::min(tokens_.size(), sorted_ + block_);
      std::partial_sort(tokens_.begin() + static_cast<int64_t>(sorted_), tokens_.begin() + static_cast<int64_t>(end),
                        tokens_.end(), likelier);
      sorted_ = end;
      block_ *= 4;
    }
    return tokens_[place];
  }

 private:
  std::vector<Scored>& tokens_;
  size_t sorted_ = 0;
  size_t block_ = 64;
};

int32_t choose_by_order(const Row& row, double top) {
  thread_local std::vector<Scored> tokens;  // keeps its memory: a vocabulary's is fetched from the system anew else
  tokens.clear();
  const TokenChoice& choice = row.choice;
  for (int64_t v = 0; v < row.vocab; ++v) {
    if (!row.may_be(v)) continue;
    tokens.push_back({.id = static_cast<int32_t>(v), .score = static_cast<double>(row.logit(v)) / choice.temperature});
  }
  if (choice.top_k > 0) keep_top_k(tokens, choice.top_k);
  for (Scored& token : tokens) token.weight = score_weight(token.score, top);
  std::erase_if(tokens, [](const Scored& token) { return token.weight == 0; });
  LikeliestFirst in_order(tokens);
  size_t kept = tokens.size();
  if (choice.top_p < 1) {
    uint64_t all = 0, before = 0;
    for (const Scored& token : tokens) all += token.weight;
    const double enough = choice.top_p * static_cast<double>(all);
    for (kept = 0; static_cast<double>(before) < enough; ++kept) before += in_order[kept].weight;
  }
  const auto weight_of = [&](const Scored& token) {
    return static_cast<double>(token.weight) < choice.least_weight ? 0 : token.weight;
  };
  uint64_t total = 0;
  for (size_t i = 0; i < kept; ++i) total += weight_of(tokens[i]);
  uint64_t place = sampling_place(choice.bits, total);
  for (size_t i = 0;; ++i) {
    const uint64_t weight = weight_of(in_order[i]);
    if (place < weight) return in_order[i].id;
    place -= weight;
  }
}

int32_t choose(const Row& row) {
  if (!all_finite(row.logits, row.vocab)) return -1;
  int64_t likeliest = -1;
  for (int64_t v = 0; v < row.vocab; ++v) {
    if (row.may_be(v) && (likeliest < 0 || row.logit(v) > row.logit(likeliest))) likeliest = v;
  }
  const TokenChoice& choice = row.choice;
  if (likeliest < 0 || choice.temperature == 0) return static_cast<int32_t>(likeliest);
  const double top = static_cast<double>(row.logit(likeliest)) / choice.temperature;
  if (draws_by_order(choice)) return choose_by_order(row, top);
  const auto weight_of = [&](int64_t v) { return row.may_be(v) ? choice_weight(choice, row.logit(v), top) : 0; };
  uint64_t total = 0;
  for (int64_t v = 0; v < row.vocab; ++v) total += weight_of(v);
  uint64_t place = sampling_place(choice.bits, total);
  for (int64_t v = 0;; ++v) {
    const uint64_t weight = weight_of(v);
    if (place < weight) return static_cast<int32_t>(v);
    place -= weight;
  }
}

}  // namespace

void choose_tokens(int32_t* chosen, const float* logits, int64_t ld_logits, const TokenChoice* choices,
                   const uint32_t* allowed, const uint32_t* earlier, int64_t rows, int64_t vocab) {
  parallel_ranges(rows, rows * vocab, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      chosen[r] = choose({.logits = logits + r * ld_logits,
                          .choice = choices[r],
                          .allowed = allowed,
                          .earlier = choices[r].penalty != 1 ? earlier + r * choice_words(vocab) : nullptr,
                          .vocab = vocab});
    }
  });
}

}  // namespace deeptitan::cpu
