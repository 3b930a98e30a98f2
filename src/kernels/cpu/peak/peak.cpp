#include "kernels/cpu/peak/peak.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "core/clock.h"

namespace deeptitan::cpu {
namespace {

constexpr int64_t kPeakSteps = 200000;  // some milliseconds
constexpr int64_t kBandwidthBytes = 256 << 20;

// The best time of `run`, repeated for `seconds` and at least three times.
template <typename Run>
double best_time(double seconds, const Run& run) {
  const double end = monotonic_seconds() + seconds;
  double best = 1e300;
  for (int i = 0; i < 3 || monotonic_seconds() < end; ++i) {
    const double start = monotonic_seconds();
    run();
    best = std::min(best, monotonic_seconds() - start);
  }
  return best;
}

}  // namespace

double measure_matrix_peak(OperandType type, double seconds) {
  const PanelIsa& isa = panel_isa();
  int64_t operations = 0;
  const double time = best_time(seconds, [&] {
    int64_t done = 0;
#pragma omp parallel reduction(+ : done)
    {
      float sink[16];
      std::fill_n(sink, 16, std::bit_cast<float>(0x3c3c3c3cu));  // about 0.01, as one fp32 and as two bf16
      done += isa.peak_loop(type, kPeakSteps, sink);
    }
    operations = done;
  });
  return static_cast<double>(operations) / time;
}

double measure_read_bandwidth(double seconds) {
  const std::vector<uint64_t> buffer(kBandwidthBytes / sizeof(uint64_t), 1);
  uint64_t sink = 0;
  const double time = best_time(seconds, [&] {
    uint64_t sum = 0;
#pragma omp parallel for reduction(+ : sum) schedule(static)
    for (size_t i = 0; i < buffer.size(); ++i) sum += buffer[i];
    sink += sum;
  });
  return sink == 0 ? 0.0 : static_cast<double>(kBandwidthBytes) / time;
}

}  // namespace deeptitan::cpu
