#pragma once

#include <atomic>
#include <functional>
#include <string>

#include <nccl.h>

namespace deeptitan {

/// Memory that the processes of one run share.
struct RankBoard {
  ncclUniqueId id;
  std::atomic<int> id_written;
  std::atomic<int> arrived;  // see wait_for_all
  int n_ranks;
  double numbers[1024];  // for whatever the ranks tell each other or the parent

  /// Returns once all ranks have called it as often as this one has. A barrier on the host, for tests and timing.
  void wait_for_all();
};

/// The number of CUDA devices, found out in a child process: a process that has used CUDA must not fork.
int count_devices_in_child();

/// Forks n_ranks processes, one a GPU (rank r makes device r current), and runs body(rank, board) in each. The board's
/// id is one for an NCCL communicator of all of them. Returns "" if all returned, else what the first to fail threw or
/// how it died; the others are given ten seconds to end.
std::string run_rank_processes(int n_ranks, const std::function<void(int rank, RankBoard& board)>& body);

}  // namespace deeptitan
