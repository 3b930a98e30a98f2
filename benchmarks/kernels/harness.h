#pragma once

// Times launches on the current device: CUDA events around each, the second-level cache emptied before it (overwritten,
// and read over, so that no launch pays for writing back what another left), medians and spread over many; and the
// peaks of the same run to hold them against.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace deeptitan::benchmark {

/// One kernel at one shape.
struct Work {
  std::string name;
  double bytes = 0;  // the fewest that must move: each input read once, each output written once
  double flops = 0;
  std::function<void(cudaStream_t)> launch;
};

struct Timing {
  double median = 0;  // seconds
  double low = 0;     // 10th percentile
  double high = 0;    // 90th percentile
};

/// Device memory for a benchmark; freed with the object.
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes);
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  DeviceMemory(DeviceMemory&& other) noexcept;
  ~DeviceMemory();
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

class Session {
 public:
  /// Measures the copy bandwidth and prints the device, the driver and the head of the table. `filter`: only works
  /// whose name contains it are run.
  explicit Session(std::string filter = "");
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session();

  /// Times `work`, which FLOP/s are held against from here on, and prints its row.
  void set_matrix_peak(const Work& work);

  /// Warms up, times about 0.15 s of launches (20 at least, 400 at most), prints a row and returns the timing. A work
  /// of which the launch throws ends the program.
  Timing run(const Work& work);

  /// As run, but the mean of 20 launches replayed as one CUDA graph, nothing between them: warm caches, no launch gaps
  /// of the host. Printed with "(graph, warm)" behind the name.
  Timing run_in_graph(const Work& work);

  /// Bytes a second, read and written both counted, of a 2 GiB device-to-device copy.
  double copy_bandwidth() const { return copy_bandwidth_; }
  cudaStream_t stream() const { return stream_; }

 private:
  bool selected(const Work& work) const;
  std::vector<double> time_launches(const std::function<void(cudaStream_t)>& launch, bool flush);
  void print(const std::string& name, const Work& work, const Timing& timing) const;

  std::string filter_;
  cudaStream_t stream_ = nullptr;
  void* flush_ = nullptr;
  double copy_bandwidth_ = 0;
  double matrix_peak_ = 0;
};

/// A kernel that does nothing: what events and a launch cost by themselves.
void launch_nothing(cudaStream_t stream);

/// Reads the data, of whole words of 16 bytes whose 4 parts are equal: the second-level cache holds what was read last,
/// and nothing that is still to be written.
void read_over(void* data, size_t bytes, cudaStream_t stream);

/// Standard normal bf16 values, of a fixed seed, made on the device.
void fill_normal_bf16(void* data, int64_t count, uint64_t seed, cudaStream_t stream);
/// Standard normal fp32 values.
void fill_normal_f32(void* data, int64_t count, uint64_t seed, cudaStream_t stream);

}  // namespace deeptitan::benchmark
