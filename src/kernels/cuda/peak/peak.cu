#include <algorithm>
#include <memory>

#include "core/device_memory.h"
#include "core/random.h"
#include "core/stream.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/matmul/dense_product.h"
#include "kernels/cuda/peak/peak.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRuns = 8;

/// Sums of uniform numbers, near enough to normal ones: what products of activations draw of power.
template <typename T>
__global__ void __launch_bounds__(kThreads) fill_normal_kernel(T* x, int64_t n, uint64_t key) {
  for (int64_t i = first_element(); i < n; i += element_stride()) {
    float sum = 0;
    for (int part = 0; part < 4; ++part) sum += random_uniform(key, static_cast<uint64_t>(4 * i + part)) - 0.5f;
    store_rounded(x + i, sum);
  }
}

Device current_device() {
  int index = 0;
  DT_CUDA_CHECK(cudaGetDevice(&index));
  return {DeviceKind::kCuda, index};
}

/// The shortest of a few runs, in seconds, after one that is not counted.
template <typename Body>
double shortest(Device device, const Stream& stream, const Body& body) {
  body();
  Event begin(device), end(device);
  double best = 1e9;
  for (int run = 0; run < kRuns; ++run) {
    begin.record(stream);
    body();
    end.record(stream);
    end.synchronize();
    best = std::min(best, end.seconds_since(begin));
  }
  return best;
}

template <typename T>
double measure_product() {
  constexpr int64_t kSize = 8192;
  constexpr int64_t kNumbers = kSize * kSize;
  const Device device = current_device();
  const Stream stream(device);
  const auto native = static_cast<cudaStream_t>(stream.native());
  const MemoryBlock operands("matrix peak", device, MemoryKind::kDevice,
                             2 * kNumbers * static_cast<int64_t>(sizeof(T)));
  const MemoryBlock output("matrix peak", device, MemoryKind::kDevice, kNumbers * static_cast<int64_t>(sizeof(T)));
  const MemoryBlock workspace("matrix peak", device, MemoryKind::kDevice, static_cast<int64_t>(kDenseWorkspaceBytes));
  T* left = reinterpret_cast<T*>(operands.data());
  fill_normal_kernel<<<blocks_for<kThreads>(2 * kNumbers), kThreads, 0, native>>>(left, 2 * kNumbers, 1);
  check_launch("fill_normal_kernel");
  const DenseProduct product{.output = output.data(),
                             .output_stride = kSize,
                             .f32_output = sizeof(T) == 4,
                             .f32_operands = sizeof(T) == 4,
                             .left = {left, kSize, kSize, kSize, false},
                             .right = {left + kNumbers, kSize, kSize, kSize, true},
                             .whole_class = false};
  const double seconds = shortest(device, stream, [&] { multiply_dense(product, workspace.data(), native); });
  return 2.0 * static_cast<double>(kNumbers) * kSize / seconds;
}

}  // namespace

double measure_matrix_peak(bool bf16) {
  return bf16 ? measure_product<bfloat16>() : measure_product<float>();
}

double measure_copy_bandwidth() {
  constexpr int64_t kBytes = int64_t{512} << 20;
  const Device device = current_device();
  const Stream stream(device);
  const MemoryBlock from("copy bandwidth", device, MemoryKind::kDevice, kBytes);
  const MemoryBlock to("copy bandwidth", device, MemoryKind::kDevice, kBytes);
  return 2.0 * static_cast<double>(kBytes) /
         shortest(device, stream, [&] { stream.copy(to.data(), from.data(), kBytes); });
}

}  // namespace deeptitan::cuda
