#pragma once

#include <algorithm>
#include <cstdint>

#include <omp.h>

namespace deeptitan::cpu {

/// Below this many element operations a parallel region costs more than it saves.
inline constexpr int64_t kMinParallelWork = 1 << 15;

/// Calls body(begin, end) on one contiguous part of [0, count) a thread; parts start at multiples of `grain`.
/// `work` estimates the whole in cheap element operations: little of it, or a call from inside a parallel region,
/// runs as one body(0, count) on the calling thread. body must not throw. What body computes for an item must not
/// depend on where a part begins or ends, so that results do not depend on the number of threads.
template <typename Body>
void parallel_ranges(int64_t count, int64_t work, int64_t grain, Body body) {
  if (count <= 0) return;
  if (work < kMinParallelWork || count <= grain || omp_in_parallel()) {
    body(int64_t{0}, count);
    return;
  }
#pragma omp parallel
  {
    const int64_t grains = (count + grain - 1) / grain;
    const int64_t threads = omp_get_num_threads();
    const int64_t thread = omp_get_thread_num();
    const int64_t begin = grains * thread / threads * grain;
    const int64_t end = std::min(grains * (thread + 1) / threads * grain, count);
    if (begin < end) body(begin, end);
  }
}

}  // namespace deeptitan::cpu
