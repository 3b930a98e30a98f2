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

MemoryPlan plan_of(std::span<const std::unique_ptr<Arena>> arenas, Device device) {
  MemoryPlan plan;
  for (const auto& arena : arenas) plan.arenas.push_back({arena->name(), arena->peak()});
  if (device.kind == DeviceKind::kCuda) {
    plan.arenas.push_back({"CUDA context (estimate)", kCudaContextBytes});
    plan.arenas.push_back({"CUDA code and graphs (estimate)", kCudaCodeBytes});
  }
  std::stable_sort(plan.arenas.begin(), plan.arenas.end(),
                   [](const PlannedArena& a, const PlannedArena& b) { return a.bytes > b.bytes; });
  return plan;
}

int64_t available_memory(Device device) {
  if (device.kind == DeviceKind::kCuda) {
#ifdef DT_CUDA
    return cuda::free_bytes(device.index) + kCudaContextBytes;
#else
    fail_without_cuda("memory", device);
#endif
  }
  return available_host_memory();
}

}  // namespace deeptitan
