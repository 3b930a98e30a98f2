// Times the grouped products against cuBLAS's bf16 8192 x 8192 x 8192 and a device-to-device copy, measured in the same
// run. Usage: grouped_gemm_benchmark [part of a case's name].
//
// Under load the chip lowers its clock to stay within its power, so every round times the peer, then the case, each for
// tens of milliseconds, and both figures are medians over the rounds.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "core/error.h"
#include "cublas_peak.h"
#include "grouped_gemm_data.h"
#include "harness.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/grouped_gemm/grouped_gemm.h"

namespace deeptitan::benchmark {
namespace {

using cuda::GroupedGemmShape;
using Strategy = GroupedGemmStrategy;

constexpr int kRounds = 9;
constexpr double kRoundMilliseconds = 25.0;

class Timer {
 public:
  Timer() {
    DT_CUDA_CHECK(cudaEventCreate(&start_));
    DT_CUDA_CHECK(cudaEventCreate(&end_));
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() {
    (void)cudaEventDestroy(start_);
    (void)cudaEventDestroy(end_);
  }
  /// Milliseconds of one of `repeats` launches in a row.
  double milliseconds(const std::function<void()>& launch, int repeats) const {
    DT_CUDA_CHECK(cudaEventRecord(start_));
    for (int i = 0; i < repeats; ++i) launch();
    DT_CUDA_CHECK(cudaEventRecord(end_));
    DT_CUDA_CHECK(cudaEventSynchronize(end_));
    float elapsed = 0.0f;
    DT_CUDA_CHECK(cudaEventElapsedTime(&elapsed, start_, end_));
    return elapsed / repeats;
  }
  /// As many repeats as fill one round.
  int repeats(const std::function<void()>& launch) const {
    milliseconds(launch, 2);
    return std::clamp(static_cast<int>(kRoundMilliseconds / milliseconds(launch, 2)), 1, 2000);
  }

 private:
  cudaEvent_t start_ = nullptr, end_ = nullptr;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

enum class Kind { kForward, kInputGradient, kWeightGradient };

struct Case {
  std::string name;
  Strategy strategy;
  Kind kind;
  std::vector<int32_t> sizes;
  int k, n;           // input and output width of the projection
  bool memory_bound;  // judged by the bytes of weights or their gradients against a copy, not by FLOPs against cuBLAS
  bool accumulate = true;  // of a weight gradient
};

/// `groups` sizes that follow a Zipf law (size of rank r ~ 1 / r), shuffled, the last tenth empty; they sum to `rows`.
std::vector<int32_t> zipf_sizes(int groups, int rows) {
  const int filled = groups - groups / 10;
  double norm = 0.0;
  for (int r = 1; r <= filled; ++r) norm += 1.0 / r;
  std::vector<int32_t> sizes(groups, 0);
  int left = rows;
  for (int r = filled; r >= 1; --r) {
    const int size = r == 1 ? left : static_cast<int>(rows / norm / r);
    sizes[(r * 37) % groups] = size;  // 37 is coprime to the group counts used here
    left -= size;
  }
  return sizes;
}

/// Sizes 1 .. 64 in turn.
std::vector<int32_t> decode_sizes(int groups) {
  std::vector<int32_t> sizes(groups);
  for (int g = 0; g < groups; ++g) sizes[g] = 1 + (g * 29) % 64;
  return sizes;
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  const std::vector<int32_t> large(32, 1024), medium(64, 1536);
  const std::vector<int32_t> zipf_large = zipf_sizes(32, 32 * 1024), zipf_medium = zipf_sizes(64, 64 * 1536);
  const auto shapes = [&](const std::string& what, Strategy strategy, Kind kind) {
    cases.push_back({what + " 32x1024", strategy, kind, large, 7168, 2048, false});
    cases.push_back({what + " 32x1024", strategy, kind, large, 2048, 7168, false});
    cases.push_back({what + " 64x1536", strategy, kind, medium, 2048, 1408, false});
    cases.push_back({what + " 64x1536", strategy, kind, medium, 1408, 2048, false});
  };
  shapes("bf16 forward", Strategy::kBf16, Kind::kForward);
  cases.push_back({"bf16 forward 32xZipf", Strategy::kBf16, Kind::kForward, zipf_large, 7168, 2048, false});
  cases.push_back({"bf16 forward 32xZipf", Strategy::kBf16, Kind::kForward, zipf_large, 2048, 7168, false});
  cases.push_back({"bf16 forward 64xZipf", Strategy::kBf16, Kind::kForward, zipf_medium, 2048, 1408, false});
  cases.push_back({"bf16 forward 64xZipf", Strategy::kBf16, Kind::kForward, zipf_medium, 1408, 2048, false});
  shapes("bf16 input gradient", Strategy::kBf16, Kind::kInputGradient);
  shapes("bf16 weight gradient", Strategy::kBf16, Kind::kWeightGradient);
  cases.push_back(
      {"bf16 weight gradient 64xZipf", Strategy::kBf16, Kind::kWeightGradient, zipf_medium, 2048, 1408, false});
  // Experts with few rows each: bound by the gradients' bytes, 8 a weight where they are added to and 4 where not.
  for (const bool accumulate : {true, false}) {
    const std::string what = std::string("bf16 weight gradient ") + (accumulate ? "added" : "set");
    const auto few = [&](int rows, int k, int n) {
      cases.push_back({what + " 64x" + std::to_string(rows), Strategy::kBf16, Kind::kWeightGradient,
                       std::vector<int32_t>(64, rows), k, n, true, accumulate});
    };
    few(384, 2048, 2816);
    few(512, 1536, 1280);
    few(768, 2048, 2816);
    few(1024, 2048, 2816);
    few(1536, 2048, 2816);
    few(1536, 1408, 2048);
  }
  cases.push_back(
      {"bf16 prefill 64x48", Strategy::kBf16, Kind::kForward, std::vector<int32_t>(64, 48), 2048, 2816, true});
  cases.push_back(
      {"bf16 prefill 64x48", Strategy::kBf16, Kind::kForward, std::vector<int32_t>(64, 48), 1408, 2048, true});
  shapes("fp8_blockwise forward", Strategy::kFp8Blockwise, Kind::kForward);
  cases.push_back(
      {"fp8_blockwise forward 32xZipf", Strategy::kFp8Blockwise, Kind::kForward, zipf_large, 7168, 2048, false});
  shapes("fp8_rowwise forward", Strategy::kFp8Rowwise, Kind::kForward);
  cases.push_back(
      {"fp8_blockwise decode 32x1..64", Strategy::kFp8Blockwise, Kind::kForward, decode_sizes(32), 7168, 2048, true});
  cases.push_back(
      {"fp8_blockwise decode 32x1..64", Strategy::kFp8Blockwise, Kind::kForward, decode_sizes(32), 2048, 7168, true});
  cases.push_back({"bf16 decode 32x1..64", Strategy::kBf16, Kind::kForward, decode_sizes(32), 7168, 2048, true});
  cases.push_back({"bf16 decode 32x1..64", Strategy::kBf16, Kind::kForward, decode_sizes(32), 2048, 7168, true});
  shapes("loop forward", Strategy::kLoop, Kind::kForward);
  return cases;
}

/// Runs one case against its peer and prints a line.
void run_case(const Case& c, const Timer& timer, const CublasPeak& peak, const DeviceMemory& copy_from,
              const DeviceMemory& copy_to, int64_t copy_bytes) {
  const int groups = static_cast<int>(c.sizes.size());
  const bool fp8 = c.strategy == Strategy::kFp8Blockwise || c.strategy == Strategy::kFp8Rowwise;
  std::vector<int32_t> offsets(groups);
  std::exclusive_scan(c.sizes.begin(), c.sizes.end(), offsets.begin(), 0);
  const int64_t rows = offsets.back() + c.sizes.back();
  const int64_t weight_count = static_cast<int64_t>(groups) * c.n * c.k;
  const int64_t element = fp8 ? 1 : 2;

  DeviceMemory group_offsets(4 * groups), group_sizes(4 * groups);
  DeviceMemory workspace(static_cast<int64_t>(cuda::grouped_gemm_workspace_bytes(c.strategy)));
  DT_CUDA_CHECK(cudaMemcpy(group_offsets.as<void>(), offsets.data(), 4 * groups, cudaMemcpyHostToDevice));
  DT_CUDA_CHECK(cudaMemcpy(group_sizes.as<void>(), c.sizes.data(), 4 * groups, cudaMemcpyHostToDevice));
  const GroupedGemmShape shape{group_offsets.as<int32_t>(), group_sizes.as<int32_t>(), groups, rows, c.n, c.k};

  const bool weight_gradient = c.kind == Kind::kWeightGradient;
  const int64_t x_count = rows * (c.kind == Kind::kInputGradient ? c.n : c.k);
  DeviceMemory x(x_count * element);
  DeviceMemory second(weight_gradient ? rows * c.n * 2 : weight_count * element);
  DeviceMemory output(weight_gradient ? weight_count * 4 : rows * (c.kind == Kind::kInputGradient ? c.k : c.n) * 2);
  const int64_t scale_count = std::max<int64_t>(rows + 3, int64_t{groups} * std::max(c.n, c.k)) * (c.k / 128 + 2);
  DeviceMemory x_scales(fp8 ? 4 * scale_count : 0), weight_scales(fp8 ? 4 * scale_count : 0);
  if (fp8) {
    fill_normal_e4m3(x.as<float8_e4m3>(), x_count, 3, nullptr);
    fill_normal_e4m3(second.as<float8_e4m3>(), weight_count, 4, nullptr);
    fill_scales(x_scales.as<float>(), scale_count, 5, nullptr);
    fill_scales(weight_scales.as<float>(), scale_count, 6, nullptr);
  } else {
    fill_normal_bf16(x.as<bfloat16>(), x_count, 3, nullptr);
    fill_normal_bf16(second.as<bfloat16>(), weight_gradient ? rows * c.n : weight_count, 4, nullptr);
  }
  if (weight_gradient) DT_CUDA_CHECK(cudaMemset(output.as<void>(), 0, weight_count * 4));

  const auto launch = [&] {
    if (weight_gradient) {
      cuda::grouped_gemm_weight_gradient(c.strategy, output.as<float>(), second.as<bfloat16>(), x.as<bfloat16>(), shape,
                                         {.accumulate = c.accumulate}, workspace.as<void>(), nullptr);
      return;
    }
    const auto product = c.kind == Kind::kForward ? cuda::grouped_gemm_forward : cuda::grouped_gemm_input_gradient;
    product(c.strategy, output.as<bfloat16>(), {x.as<void>(), fp8 ? x_scales.as<float>() : nullptr},
            {second.as<void>(), fp8 ? weight_scales.as<float>() : nullptr}, shape, {}, workspace.as<void>(), nullptr);
  };
  const std::function<void()> peer = [&] {
    if (c.memory_bound) {
      DT_CUDA_CHECK(cudaMemcpyAsync(copy_to.as<void>(), copy_from.as<void>(), copy_bytes, cudaMemcpyDeviceToDevice));
    } else {
      peak.launch();
    }
  };
  const int repeats = timer.repeats(launch), peer_repeats = timer.repeats(peer);
  std::vector<double> times, peer_times;
  for (int round = 0; round < kRounds; ++round) {
    peer_times.push_back(timer.milliseconds(peer, peer_repeats));
    times.push_back(timer.milliseconds(launch, repeats));
  }
  const double time = median(times), peer_time = median(peer_times);
  const auto [fastest, slowest] = std::minmax_element(times.begin(), times.end());
  const double flops = 2.0 * rows * c.n * c.k;
  double used_weights = 0.0;
  for (const int32_t size : c.sizes) used_weights += size > 0 ? static_cast<double>(c.n) * c.k : 0.0;
  const double bytes = weight_gradient ? rows * (c.n + c.k) * 2.0 + used_weights * (c.accumulate ? 8 : 4)
                                       : x_count * element + used_weights * element +
                                             rows * (c.kind == Kind::kInputGradient ? c.k : c.n) * 2.0;
  const double bound_bytes = weight_gradient ? bytes : used_weights * element;
  const double rate = c.memory_bound ? bound_bytes / time * 1e-9 : flops / time * 1e-9;
  const double peer_rate = c.memory_bound ? 2.0 * copy_bytes / peer_time * 1e-9 : CublasPeak::kFlops / peer_time * 1e-9;
  std::printf("%-32s %4d->%-4d | %8.4f ms (%.4f-%.4f) | %7.2f TFLOP/s %6.3f TB/s | %7.2f %s of %7.2f: %5.1f %%\n",
              c.name.c_str(), c.k, c.n, time, *fastest, *slowest, flops / time * 1e-9, bytes / time * 1e-9, rate,
              c.memory_bound ? "TB/s" : "TFLOP/s", peer_rate, 100.0 * rate / peer_rate);
  std::fflush(stdout);
}

int run(const std::string& filter) {
  cudaDeviceProp properties;
  DT_CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  int driver = 0;
  DT_CUDA_CHECK(cudaDriverGetVersion(&driver));
  std::printf("%s, %d multiprocessors, driver for CUDA %d.%d, cuBLASLt %zu; medians of %d rounds of %.0f ms\n",
              properties.name, properties.multiProcessorCount, driver / 1000, driver % 1000 / 10, CublasPeak::version(),
              kRounds, kRoundMilliseconds);
  std::printf("peers: cuBLAS bf16 8192^3; where weights bound the time, a copy's bytes read and written\n");
  const Timer timer;
  const CublasPeak peak;
  constexpr int64_t kCopyBytes = int64_t{2} << 30;
  const DeviceMemory copy_from(kCopyBytes), copy_to(kCopyBytes);
  fill_normal_bf16(copy_from.as<bfloat16>(), kCopyBytes / 2, 7, nullptr);
  for (const Case& c : all_cases()) {
    if (c.name.find(filter) != std::string::npos) run_case(c, timer, peak, copy_from, copy_to, kCopyBytes);
  }
  return 0;
}

}  // namespace
}  // namespace deeptitan::benchmark

int main(int count, char** arguments) {
  try {
    return deeptitan::benchmark::run(count > 1 ? arguments[1] : "");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "grouped_gemm_benchmark: %s\n", error.what());
    return 1;
  }
}
