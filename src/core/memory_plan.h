#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/arena.h"

namespace deeptitan {

/// One arena of a run or an engine, and what it will hold.
struct PlannedArena {
  std::string name;
  int64_t bytes;
};

/// What a run or an engine needs: its arenas, the largest first.
struct MemoryPlan {
  std::vector<PlannedArena> arenas;

  /// Puts what is not an arena among them, where it takes something.
  void add(const std::string& name, int64_t bytes);
  /// The bytes of all arenas.
  int64_t total() const;
  /// The three largest arenas as a message names them: "activations (107.0 MB), optimizer (68.3 MB), ...".
  std::string largest() const;
};

/// What a process takes of a GPU besides its arenas, as it was measured (docs/kernels.md, Memory): the context, which
/// is there as soon as the GPU is looked at, and what comes later: code as it is first used, captured graphs, and the
/// rounding of arenas to whole pages. Of a GPU that is not here, those of an H100.
int64_t cuda_context_bytes(Device device);
inline constexpr int64_t kCudaCodeBytes = 24'000'000;

/// The plan that arenas have counted: the peak of each; on a GPU with what the process takes beside them.
MemoryPlan plan_of(std::span<const std::unique_ptr<Arena>> arenas, Device device);

/// Bytes of memory that a plan may have now: of the host, available_host_memory; of a GPU, what it has free and the
/// context that this process has already.
int64_t available_memory(Device device = {});

/// What other processes hold of a GPU, as the end of a message that says how little is available: "; other processes
/// hold 70.1 GB of cuda:0's 85.0 GB (nvidia-smi lists them)". Empty where that is less than 1 GB, and on the CPU.
std::string held_by_others(Device device);

}  // namespace deeptitan
