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

/// The plan that arenas have counted: the peak of each.
MemoryPlan plan_of(std::span<const std::unique_ptr<Arena>> arenas);

/// Bytes of memory that can be taken now: of the host, available_host_memory; of a GPU, what it has free.
int64_t available_memory(Device device = {});

}  // namespace deeptitan
