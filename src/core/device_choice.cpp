#include "core/device_choice.h"

#include <charconv>
#include <cstddef>
#include <optional>

#include "core/error.h"
#ifdef DT_CUDA
#include "core/cuda_device.h"
#endif

namespace deeptitan {
namespace {

#ifdef DT_CUDA
// Why GPU `index` cannot be used; empty where it can.
std::string problem_of(int index) {
  const cuda::DeviceCount found = cuda::count_devices();
  if (!found.problem.empty()) return found.problem;
  if (index >= found.devices) {
    return fmt::format("this host has {} {}, cuda:0{}", found.devices, found.devices == 1 ? "GPU" : "GPUs",
                       found.devices == 1 ? "" : fmt::format(" to cuda:{}", found.devices - 1));
  }
  const cuda::DeviceProperties gpu = cuda::device_properties(index);
  if (gpu.major < cuda::kLeastMajor) {
    return fmt::format("{} has compute capability {}.{}, and {}.0 or newer is needed", gpu.name, gpu.major, gpu.minor,
                       cuda::kLeastMajor);
  }
  return cuda::cublas_lt_library().problem();
}

using cuda::prepare_to_wait_for_others;

int gpus_here() {
  return cuda::count_devices().devices;
}

std::string describe(int index) {
  const cuda::DeviceProperties gpu = cuda::device_properties(index);
  return fmt::format("cuda:{}, {} with {:.1f} GB of memory, compute capability {}.{}", index, gpu.name,
                     static_cast<double>(gpu.bytes) * 1e-9, gpu.major, gpu.minor);
}
#else
std::string problem_of(int /*index*/) {
  return "this build of deeptitan has no CUDA; build the preset cuda (cmake --preset cuda)";
}
void prepare_to_wait_for_others() {}
int gpus_here() {
  return 0;
}
constexpr bool kCanPlanForGpus = false;
std::string describe(int /*index*/) {
  return "";
}
#endif

// A launcher that shows a process one GPU means that one.
int index_of_place(const HostPlace& place) {
  return place.ranks > 1 && gpus_here() > 1 ? place.rank : 0;
}

// Why a process of this host has no GPU; empty where it has.
std::string problem_of_place(const HostPlace& place) {
  const int gpus = gpus_here();
  if (gpus > 1 && place.ranks > gpus) {
    return fmt::format("this host has {} GPUs for {} ranks, each of which needs one", gpus, place.ranks);
  }
  return problem_of(index_of_place(place));
}

// Of cuda and cuda:N.
std::optional<int> gpu_index(std::string_view word) {
  constexpr std::string_view kNumbered = "cuda:";
  if (word == "cuda") return 0;
  int index = 0;
  const char* end = word.data() + word.size();
  if (!word.starts_with(kNumbered)) return std::nullopt;
  const auto [stop, error] = std::from_chars(word.data() + kNumbered.size(), end, index);
  return error == std::errc{} && stop == end && index >= 0 ? std::optional(index) : std::nullopt;
}

// The same where the word must be one of them.
int gpu_number(std::string_view word) {
  const std::optional<int> index = gpu_index(word);
  DT_CHECK_USAGE(index, "device = {}; expected {}", word, kDeviceWords);
  return *index;
}

}  // namespace

bool built_with_cuda() {
#ifdef DT_CUDA
  return true;
#else
  return false;
#endif
}

void use_device(Device device) {
  if (device.kind == DeviceKind::kCpu) return;
#ifdef DT_CUDA
  cuda::use_device(device.index);
#else
  fail_without_cuda("work", device);
#endif
}

std::string DeviceChoice::kind() const {
  return device.kind == DeviceKind::kCpu ? "cpu" : description.substr(description.find(", ") + 2);
}

bool is_device_word(std::string_view word) {
  return word == "cpu" || word == "auto" || gpu_index(word);
}

DeviceChoice choose_device(std::string_view word, const HostPlace& place) {
  if (word == "cpu") return {{}, "the CPU"};
  if (place.ranks > 1) prepare_to_wait_for_others();
  if (word == "auto") {
    const std::string problem = problem_of_place(place);
    const int index = index_of_place(place);
    if (problem.empty()) return {{DeviceKind::kCuda, index}, describe(index)};
    return {{}, "the CPU: " + problem};
  }
  int index = gpu_number(word);
  DT_CHECK_USAGE(place.ranks == 1 || word == "cuda",
                 "device = {} is one GPU, and {} ranks of this host need one each; use cuda, and CUDA_VISIBLE_DEVICES "
                 "for which they are",
                 word, place.ranks);
  if (place.ranks > 1) index = index_of_place(place);
  const std::string problem = place.ranks > 1 ? problem_of_place(place) : problem_of(index);
  DT_CHECK_USAGE(problem.empty(), "device = {}: {}; use cpu, or auto for a GPU where one is usable", word, problem);
  return {{DeviceKind::kCuda, index}, describe(index)};
}

PlannedDevice device_to_plan(std::string_view word) {
  if (!built_with_cuda() || word == "cpu" || word == "auto") return {choose_device(word).device, ""};
  const int index = gpu_number(word);
  return {{DeviceKind::kCuda, index}, problem_of(index)};
}

}  // namespace deeptitan
