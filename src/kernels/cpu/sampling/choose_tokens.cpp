#include "kernels/cpu/sampling/choose_tokens.h"

#include <bit>

#include "kernels/cpu/parallel.h"

namespace deeptitan::cpu {
namespace {

bool all_finite(const float* logits, int64_t vocab) {
  bool any = false;
  for (int64_t v = 0; v < vocab; ++v) any |= (std::bit_cast<uint32_t>(logits[v]) & 0x7f800000u) == 0x7f800000u;
  return !any;
}

int32_t choose(const float* logits, const TokenChoice& choice, const uint32_t* allowed, int64_t vocab) {
  if (!all_finite(logits, vocab)) return -1;
  const auto may_be = [&](int64_t v) { return (allowed[v / 32] >> (v % 32) & 1) != 0; };
  int64_t likeliest = -1;
  for (int64_t v = 0; v < vocab; ++v) {
    if (may_be(v) && (likeliest < 0 || logits[v] > logits[likeliest])) likeliest = v;
  }
  if (likeliest < 0 || choice.temperature == 0) return static_cast<int32_t>(likeliest);
  const double top = static_cast<double>(logits[likeliest]) / choice.temperature;
  uint64_t total = 0;
  for (int64_t v = 0; v < vocab; ++v) total += may_be(v) ? choice_weight(choice, logits[v], top) : 0;
  uint64_t place = sampling_place(choice.bits, total);
  for (int64_t v = 0;; ++v) {
    const uint64_t weight = may_be(v) ? choice_weight(choice, logits[v], top) : 0;
    if (place < weight) return static_cast<int32_t>(v);
    place -= weight;
  }
}

}  // namespace

void choose_tokens(int32_t* chosen, const float* logits, int64_t ld_logits, const TokenChoice* choices,
                   const uint32_t* allowed, int64_t rows, int64_t vocab) {
  parallel_ranges(rows, rows * vocab, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) chosen[r] = choose(logits + r * ld_logits, choices[r], allowed, vocab);
  });
}

}  // namespace deeptitan::cpu
