#include "harness.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "kernels/cuda/error.h"

namespace deeptitan::benchmark {

namespace {

constexpr size_t kFlushBytes = size_t{256} << 20;  // four times the 60 MB of an H200's second-level cache

Timing summarise(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const auto at = [&](double share) {
    return seconds[static_cast<size_t>(share * static_cast<double>(seconds.size() - 1))];
  };
  return {at(0.5), at(0.1), at(0.9)};
}

}  // namespace

DeviceMemory::DeviceMemory(size_t bytes) {
  DT_CUDA_CHECK(cudaMalloc(&data_, std::max<size_t>(bytes, 16)));
}
DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
DeviceMemory::~DeviceMemory() {
  (void)cudaFree(data_);
}

Session::Session(std::string filter) : filter_(std::move(filter)) {
  DT_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  DT_CUDA_CHECK(cudaMalloc(&flush_, kFlushBytes));
  cudaDeviceProp properties{};
  int device = 0, driver = 0, runtime = 0;
  DT_CUDA_CHECK(cudaGetDevice(&device));
  DT_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  DT_CUDA_CHECK(cudaDriverGetVersion(&driver));
  DT_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));

  constexpr size_t kCopyBytes = size_t{2} << 30;
  const DeviceMemory source(kCopyBytes);
  const DeviceMemory target(kCopyBytes);
  fill_normal_f32(source.as<void>(), kCopyBytes / sizeof(float), 1, stream_);
  const auto copy = [&](cudaStream_t stream) {
    DT_CUDA_CHECK(cudaMemcpyAsync(target.as<void>(), source.as<void>(), kCopyBytes, cudaMemcpyDeviceToDevice, stream));
  };
  copy_bandwidth_ = 2.0 * kCopyBytes / summarise(time_launches(copy, false)).median;

  std::printf("%s, %d multiprocessors, CUDA driver %d.%d, runtime %d.%d\n", properties.name,
              properties.multiProcessorCount, driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  std::printf("copy bandwidth %.2f TB/s (2 GiB device to device, read and written counted)\n", copy_bandwidth_ * 1e-12);
  std::printf("%-66s %10s %17s %8s %7s %9s %7s\n", "kernel", "median us", "10 to 90 %", "TB/s", "of copy", "TFLOP/s",
              "of peak");
}

Session::~Session() {
  (void)cudaFree(flush_);
  (void)cudaStreamDestroy(stream_);
}

void Session::set_matrix_peak(const Work& work) {
  const Timing timing = summarise(time_launches(work.launch, true));
  matrix_peak_ = work.flops / timing.median;
  print(work.name, work, timing);
}

bool Session::selected(const Work& work) const {
  return work.name.find(filter_) != std::string::npos;
}

std::vector<double> Session::time_launches(const std::function<void(cudaStream_t)>& launch, bool flush) {
  cudaEvent_t begin, end;
  DT_CUDA_CHECK(cudaEventCreate(&begin));
  DT_CUDA_CHECK(cudaEventCreate(&end));
  std::vector<double> seconds;
  double total = 0;
  constexpr int kWarmUp = 3;
  for (int i = 0; i < kWarmUp + 400 && (i < kWarmUp + 20 || total < 0.15); ++i) {
    if (flush) {
      DT_CUDA_CHECK(cudaMemsetAsync(flush_, i, kFlushBytes, stream_));
      read_over(flush_, kFlushBytes, stream_);
    }
    DT_CUDA_CHECK(cudaEventRecord(begin, stream_));
    launch(stream_);
    DT_CUDA_CHECK(cudaEventRecord(end, stream_));
    DT_CUDA_CHECK(cudaEventSynchronize(end));
    float milliseconds = 0;
    DT_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i < kWarmUp) continue;
    seconds.push_back(milliseconds * 1e-3);
    total += seconds.back();
  }
  DT_CUDA_CHECK(cudaEventDestroy(begin));
  DT_CUDA_CHECK(cudaEventDestroy(end));
  return seconds;
}

Timing Session::run(const Work& work) {
  if (!selected(work)) return {};
  const Timing timing = summarise(time_launches(work.launch, true));
  print(work.name, work, timing);
  return timing;
}

Timing Session::run_in_graph(const Work& work) {
  if (!selected(work)) return {};
  constexpr int kLaunches = 20;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  DT_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < kLaunches; ++i) work.launch(stream_);
  DT_CUDA_CHECK(cudaStreamEndCapture(stream_, &graph));
  DT_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  std::vector<double> seconds =
      time_launches([&](cudaStream_t stream) { DT_CUDA_CHECK(cudaGraphLaunch(executable, stream)); }, false);
  for (double& s : seconds) s /= kLaunches;
  DT_CUDA_CHECK(cudaGraphExecDestroy(executable));
  DT_CUDA_CHECK(cudaGraphDestroy(graph));
  const Timing timing = summarise(seconds);
  print(work.name + " (graph, warm)", work, timing);
  return timing;
}

void Session::print(const std::string& name, const Work& work, const Timing& timing) const {
  std::printf("%-66s %10.2f %8.2f %8.2f %8.3f %6.1f%%", name.c_str(), timing.median * 1e6, timing.low * 1e6,
              timing.high * 1e6, work.bytes / timing.median * 1e-12,
              100 * work.bytes / timing.median / copy_bandwidth_);
  if (work.flops > 0) {
    std::printf(" %9.1f", work.flops / timing.median * 1e-12);
    if (matrix_peak_ > 0) std::printf(" %6.1f%%", 100 * work.flops / timing.median / matrix_peak_);
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace deeptitan::benchmark
