#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include <cuda_runtime_api.h>

#include "kernels/cuda/error.h"

namespace deeptitan {

/// Microseconds of one repetition: median, least and greatest.
struct Timing {
  double median;
  double least;
  double greatest;
};

inline Timing summarize(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back()};
}

/// Times `work(stream)` `repetitions` times with events, after three unmeasured ones; `per_repetition` things happen in
/// each, and the times are per thing. `before` runs on the host ahead of each repetition (ranks meet there).
inline Timing measure(cudaStream_t stream, int repetitions, int per_repetition, const std::function<void()>& before,
                      const std::function<void()>& work) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  DT_CUDA_CHECK(cudaEventCreate(&begin));
  DT_CUDA_CHECK(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = -3; i < repetitions; ++i) {
    before();
    DT_CUDA_CHECK(cudaEventRecord(begin, stream));
    work();
    DT_CUDA_CHECK(cudaEventRecord(end, stream));
    DT_CUDA_CHECK(cudaStreamSynchronize(stream));
    float milliseconds = 0;
    DT_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 0) times.push_back(milliseconds * 1e3 / per_repetition);
  }
  DT_CUDA_CHECK(cudaEventDestroy(begin));
  DT_CUDA_CHECK(cudaEventDestroy(end));
  return summarize(times);
}

}  // namespace deeptitan
