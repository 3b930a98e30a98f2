#pragma once

#include <cstdint>
#include <vector>

namespace deeptitan {

/// A part of a model: layers [first_layer, end_layer), and what stands before and behind all of them. What crosses the
/// boundary between two stages is a list of tensors, and their gradients.
struct Stage {
  int64_t first_layer = 0;
  int64_t end_layer = 0;
  bool embedding = false;
  bool head = false;  // the final norm, the head and the loss
  bool mtp = false;   // the next-token-prediction modules, which need the head's stage

  int64_t layers() const { return end_layer - first_layer; }
};

/// `stages` stages of a model of `layers` layers, as even as can be, earlier ones larger. Throws a usage error where
/// there are more stages than layers.
std::vector<Stage> split_into_stages(int64_t layers, int64_t stages);

}  // namespace deeptitan
