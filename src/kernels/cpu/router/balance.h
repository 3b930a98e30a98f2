#pragma once

#include <cstdint>

namespace deeptitan::cpu {

/// load[e] += counts[e].
void accumulate_counts(int32_t* load, const int32_t* counts, int64_t experts);

/// counts[e] = the slots that chose expert e: counts [experts], expert_index [slots].
void count_choices(int32_t* counts, int64_t experts, const int32_t* expert_index, int64_t slots);

/// A layer's load and its router's bias in five numbers.
struct LoadRange {
  int32_t largest = 0;
  int64_t whole = 0;
  int64_t idle = 0;  // experts without a token
  float lowest_bias = 0;
  float highest_bias = 0;
};

/// Those of load and bias (nullptr: none), both [experts].
LoadRange load_range(const int32_t* load, const float* bias, int64_t experts);

/// bias[e] += speed * sign(mean(load) - load[e]): DeepSeek-V3 (arXiv 2412.19437) section 2.1.2, with DeepSeek's own
/// choice of the sign, not the size, of the imbalance. Compared in integers, so that an expert at the mean stays where
/// it is.
void update_router_bias(float* bias, const int32_t* load, int64_t experts, float speed);

}  // namespace deeptitan::cpu
