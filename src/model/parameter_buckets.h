#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "core/tensor.h"

namespace deeptitan {

enum class ParameterPlacement;
struct Parameter;

/// Trained parameters that lie in one piece of memory, masters in one and gradients in another: what is reduced,
/// updated and gathered at once. They have one placement and one weight decay, and their gradients are complete one
/// soon after the other.
struct ParameterBucket {
  struct Member {
    size_t parameter;  // its place in ParameterList::all()
    int64_t offset;    // of its first element
    int64_t numel;     // of those that lie here
    int64_t first;     // the place of its first element here among those of the whole parameter
    int64_t whole;     // elements of that
  };
  ParameterPlacement placement;
  bool weight_decay;
  std::vector<Member> members;
  int64_t numel = 0;  // with what lies unused between parameters, which stays zero
  Tensor value;       // f32 [numel]
  Tensor gradient;    // f32 [numel]
  Tensor kept;        // f32: what this rank keeps of the gradient, in `gradient` or apart
};

/// Cuts the trained parameters into buckets, in the order in which the backward completes their gradients: the last
/// declared first. A bucket is closed when it holds `enough` elements; a larger parameter has one to itself. Parameters
/// begin at multiples of `alignment` elements. `windows`, by parameter: no bucket has members of two (empty: all are of
/// one).
std::vector<ParameterBucket> cut_into_buckets(const std::deque<Parameter>& parameters, int64_t alignment,
                                              int64_t enough, std::span<const int64_t> windows = {});

/// Elements [begin, end) of a bucket.
struct BucketPart {
  int64_t begin = 0;
  int64_t end = 0;
};

/// The part of a bucket that rank `rank` of `ranks` owns: the rank-th of equal parts, whose ends are moved to where
/// blocks of a parameter's squares meet (square_block_elements), so that the sum of a block is one rank's. Parts may be
/// empty.
BucketPart owned_part(const ParameterBucket& bucket, int64_t ranks, int64_t rank);

}  // namespace deeptitan
