#include "core/memory_plan.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/available_memory.h"
#include "core/file.h"
#ifdef DT_CUDA
#include "core/cuda_device.h"
#endif

namespace deeptitan {

void MemoryPlan::add(const std::string& name, int64_t bytes) {
  if (bytes == 0) return;
  const auto smaller = [&](const PlannedArena& arena) { return arena.bytes < bytes; };
  arenas.insert(std::find_if(arenas.begin(), arenas.end(), smaller), {name, bytes});
}

int64_t MemoryPlan::total() const {
  int64_t sum = 0;
  for (const PlannedArena& arena : arenas) sum += arena.bytes;
  return sum;
}

std::string MemoryPlan::largest() const {
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(3, arenas.size()); ++i) {
    text += fmt::format("{}{} ({})", i == 0 ? "" : ", ", arenas[i].name, format_bytes(arenas[i].bytes));
  }
  return text;
}

int64_t cuda_context_bytes(Device device) {
  constexpr int64_t kWithoutStacks = 275'600'000;
  constexpr int64_t kStack = 1024;  // of each thread that can be resident
  constexpr int64_t kThreadsOfH100 = 132 * 2048;
#ifdef DT_CUDA
  const int64_t threads = cuda::resident_threads(device.index);
#else
  static_cast<void>(device);
  const int64_t threads = 0;
#endif
  return kWithoutStacks + kStack * (threads > 0 ? threads : kThreadsOfH100);
}

MemoryPlan plan_of(std::span<const std::unique_ptr<Arena>> arenas, Device device) {
  MemoryPlan plan;
  for (const auto& arena : arenas) plan.arenas.push_back({arena->name(), arena->peak()});
  if (device.kind == DeviceKind::kCuda) {
    plan.arenas.push_back({"CUDA context", cuda_context_bytes(device)});
    plan.arenas.push_back({"CUDA code and graphs", kCudaCodeBytes});
  }
  std::stable_sort(plan.arenas.begin(), plan.arenas.end(),
                   [](const PlannedArena& a, const PlannedArena& b) { return a.bytes > b.bytes; });
  return plan;
}

int64_t available_memory(Device device) {
  if (device.kind == DeviceKind::kCuda) {
#ifdef DT_CUDA
    return cuda::free_bytes(device.index) + cuda_context_bytes(device);
#else
    fail_without_cuda("memory", device);
#endif
  }
  return available_host_memory();
}

std::string held_by_others(Device device) {
  if (device.kind == DeviceKind::kCpu) return "";
#ifdef DT_CUDA
  constexpr int64_t kWorthSaying = 1'000'000'000;
  const int64_t all = cuda::device_properties(device.index).bytes;
  const int64_t others = all - available_memory(device);
  if (others < kWorthSaying) return "";
  return fmt::format("; other processes hold {} of {}'s {} (nvidia-smi lists them)", format_bytes(others),
                     device_name(device), format_bytes(all));
#else
  fail_without_cuda("memory", device);
#endif
}

}  // namespace deeptitan
