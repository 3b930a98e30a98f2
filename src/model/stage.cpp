#include "model/stage.h"

#include "core/error.h"

namespace deeptitan {

std::vector<Stage> split_into_stages(int64_t layers, int64_t stages) {
  DT_CHECK_USAGE(stages >= 1 && stages <= layers, "{} pipeline stages for {} layers; use 1 to {}", stages, layers,
                 layers);
  std::vector<Stage> result;
  int64_t first = 0;
  for (int64_t s = 0; s < stages; ++s) {
    const int64_t end = first + layers / stages + (s < layers % stages ? 1 : 0);
    const bool last = s + 1 == stages;
    result.push_back({.first_layer = first, .end_layer = end, .embedding = s == 0, .head = last, .mtp = last});
    first = end;
  }
  return result;
}

}  // namespace deeptitan
