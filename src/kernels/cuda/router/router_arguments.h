#pragma once

#include <cstdint>

namespace deeptitan::cuda {

struct RouterArguments {
  const float* logits;  // what a kernel needs first comes first: constants are fetched in lines of 64 bytes
  const float* bias;
  int64_t tokens;
  int32_t* expert_index;
  float* expert_weight;
  float* scores;
  int32_t* counts;
  unsigned long long* workspace;  // [experts], the counts of the blocks that have finished
  int experts;
  int top_k;
  int groups;  // 1 where all groups are kept
  int top_groups;
  int group_size;
  int parts_log2;        // lanes that share a group: the most, a power of two, of which 32 hold all groups
  int elements_of_part;  // of a group's experts
  bool groups_in_lanes;  // a part's experts are those that its lane has in registers
  float weight_scale;
  bool normalize;
  bool given;  // expert_index is an input
  bool vector_logits;
  bool vector_scores;
};

}  // namespace deeptitan::cuda
