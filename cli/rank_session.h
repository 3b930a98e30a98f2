#pragma once

#include <optional>

#include "comm/mpi/mpi_world.h"

namespace deeptitan {

/// This process as one of the ranks that a launcher has started; alone where none has.
class RankSession {
 public:
  /// Starts MPI under a launcher. `ranks` is what --ranks said, 0: nothing; the launcher must have started as many.
  /// Ranks behind the first print nothing from here on but their errors, and those that may run on the same cores of a
  /// host share them out.
  explicit RankSession(int64_t ranks);
  /// Ends MPI, together with all ranks, which come within `deadline` seconds. Where something is thrown, end_all_ranks
  /// takes its place.
  void finish(double deadline);

  /// nullptr: alone.
  Transport* transport() { return world_ ? &world_->transport() : nullptr; }
  int ranks_of_host() const { return world_ ? world_->local_size() : 1; }

 private:
  std::optional<MpiWorld> world_;
};

/// Throws a usage error where a command that runs in one process was started as many.
void refuse_many_ranks(const char* command);

}  // namespace deeptitan
