#pragma once

// A row of logits as tokens are chosen from it.

#include "kernels/cuda/warp.cuh"
#include "kernels/token_choice.h"

namespace deeptitan::cuda {

/// A logit and its token as one number, larger where the logit is, and of equal ones (0 and -0 too) where the token is
/// lower: the order of the likeliest. Never 0, nor kNotFinite.
__device__ __forceinline__ uint64_t rank_of(float logit, uint32_t token) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  const uint32_t rising = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(rising) << 32 | (0xffffffffu - token);
}
__device__ __forceinline__ uint32_t token_of(uint64_t rank) {
  return 0xffffffffu - static_cast<uint32_t>(rank);
}
__device__ __forceinline__ float logit_of(uint64_t rank) {
  const auto rising = static_cast<uint32_t>(rank >> 32);
  return __uint_as_float((rising & 0x80000000u) != 0 ? rising & 0x7fffffffu : ~rising);
}
constexpr uint64_t kNotFinite = ~uint64_t{0};

__device__ __forceinline__ bool bit_of(const uint32_t* words, int64_t token) {
  return (__ldg(words + token / kWarp) >> (token % kWarp) & 1) != 0;
}

/// The tokens that may be chosen, with their logits after the penalty.
struct LogitRow {
  const float* logits;
  const uint32_t* allowed;
  const uint32_t* earlier;  // read where there is a penalty alone
  int64_t vocab;
  TokenChoice choice;

  __device__ bool may_be(int64_t token) const { return bit_of(allowed, token); }
  __device__ float penalized(float logit, int64_t token) const {
    return choice.penalty != 1 && bit_of(earlier, token) ? penalized_logit(choice, logit) : logit;
  }
  __device__ float logit(int64_t token) const { return penalized(logits[token], token); }

  /// Calls visit(token, logit before the penalty, whether it may be chosen) for every token of part `part` of `parts`,
  /// a thread of kThreads four at a time, with kInFlight such loads on their way.
  template <int kThreads, int kInFlight, typename Visit>
  __device__ void for_part(int part, int parts, const Visit& visit) const {
    const bool aligned = reinterpret_cast<uintptr_t>(logits) % sizeof(float4) == 0;
    const int stride = parts * kThreads;
    const int fours = static_cast<int>((vocab + 3) / 4);
    for (int first = part * kThreads + static_cast<int>(threadIdx.x); first < fours; first += stride * kInFlight) {
      float value[kInFlight][4];
      uint32_t may[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const int token = 4 * (first + i * stride);
        may[i] = token < vocab ? __ldg(allowed + token / kWarp) >> (token % kWarp) : 0;
        if (aligned && token + 4 <= vocab) {
          const float4 four = *reinterpret_cast<const float4*>(logits + token);
          value[i][0] = four.x, value[i][1] = four.y, value[i][2] = four.z, value[i][3] = four.w;
        } else {
#pragma unroll
          for (int j = 0; j < 4; ++j) value[i][j] = token + j < vocab ? logits[token + j] : 0;
        }
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const int token = 4 * (first + i * stride);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (token + j < vocab) visit(token + j, value[i][j], (may[i] >> j & 1) != 0);
        }
      }
    }
  }
  /// Calls visit(rank) for every token that may be chosen, by a thread of the block each.
  template <int kThreads, int kInFlight, typename Visit>
  __device__ void for_each(const Visit& visit) const {
    for_part<kThreads, kInFlight>(0, 1, [&](int token, float value, bool may) {
      if (may) visit(rank_of(penalized(value, token), static_cast<uint32_t>(token)));
    });
  }
};

/// What blocks leave of a row for those behind them.
struct RowParts {
  uint64_t* best = nullptr;    // [rows, parts]: the largest rank of a part; kNotFinite where a value is not finite
  uint64_t* worst = nullptr;   // [rows, parts]: the smallest
  uint64_t* sums = nullptr;    // [rows, segments]: of the weights
  uint64_t* weight = nullptr;  // [rows, kBins]: of the tokens of a bin
  uint32_t* count = nullptr;   // [rows, kBins]: how many these are
  int parts = 0;
  int segments = 0;
};

/// Bins of logits, the likeliest's first. What lies in the last one has no weight, if any bin before it has.
constexpr int kBins = 2048;
struct LogitBins {
  float top = 0;
  float scale = 0;

  /// Over all that has a weight, or all there is. Every rounding keeps the order.
  __device__ LogitBins(const TokenChoice& choice, uint64_t best, uint64_t worst) : top(logit_of(best)) {
    const float range = fminf((top - logit_of(worst)) * 1.001f, 32.0f * static_cast<float>(choice.temperature));
    scale = fminf((kBins - 1) / range, 1e30f);
  }
  __device__ int of(uint64_t rank) const {
    const float place = __fmul_rn(__fsub_rn(top, logit_of(rank)), scale);
    return place < kBins - 1 ? static_cast<int>(place) : kBins - 1;
  }
};

}  // namespace deeptitan::cuda
