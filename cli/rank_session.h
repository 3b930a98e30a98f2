#pragma once

#include <optional>

#include "comm/mpi/mpi_world.h"
#include "core/device_choice.h"
#include "host_ranks.h"

namespace deeptitan {

/// This process as one of the ranks that a launcher has started; alone where none has.
class RankSession {
 public:
  struct Options {
    bool start_here = false;     // where there is no launcher, start the ranks on this host (HostRanks)
    bool threads_given = false;  // else ranks share the host's cores
  };
  /// Starts MPI under a launcher. `ranks` is what --ranks said, 0: nothing; the launcher must have started as many.
  /// Ranks behind the first print nothing from here on but their errors, and those that may run on the same cores of a
  /// host share them out.
  explicit RankSession(int64_t ranks, const Options& options = {.start_here = false, .threads_given = false});
  /// Ends with all ranks, which come within `deadline` seconds. Where something is thrown, end_all_ranks takes its
  /// place.
  void finish(double deadline);
  /// See HostRanks; a launcher ends its ranks itself.
  void let_others_speak();

  /// nullptr: alone.
  Transport* transport();
  int ranks_of_host() { return host_place().ranks; }
  HostPlace host_place();

 private:
  std::optional<MpiWorld> world_;
  std::optional<HostRanks> host_;
};

/// Throws a usage error where a command that runs in one process was started as many.
void refuse_many_ranks(const char* command);

}  // namespace deeptitan
