#include "rank_session.h"

#include <cstdlib>
#include <numeric>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <omp.h>
#include <unistd.h>

#include "comm/host_communicator.h"
#include "comm/rank_cores.h"
#include "comm/rank_texts.h"
#include "core/error.h"
#include "core/log.h"

namespace deeptitan {
namespace {

void print_nothing() {
  set_log_silent();
  const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (nowhere < 0) return;
  ::dup2(nowhere, STDOUT_FILENO);
  ::close(nowhere);
}

// A launcher may have bound each rank to cores of its own; a container has bound all of them to the same.
void share_cores(MpiWorld& world) {
  constexpr int kCoresChannel = 65;  // behind those of HostGroups
  std::vector<int> all(world.size());
  std::iota(all.begin(), all.end(), 0);
  HostCommunicator ranks(world.transport(), "world", std::move(all), kCoresChannel);
  const int threads = threads_of_rank(gather_texts(ranks, host_and_cores()), world.rank(), omp_get_num_procs());
  if (std::getenv("OMP_NUM_THREADS") == nullptr) omp_set_num_threads(threads);
}

}  // namespace

RankSession::RankSession(int64_t ranks) {
  const std::optional<Launch> launch = find_launch();
  DT_CHECK_USAGE(ranks == 0 || !launch || launch->size == ranks,
                 "--ranks {}, but {} has started {} processes; leave --ranks out", ranks,
                 launch ? launch->launcher : "", launch ? launch->size : 1);
  if (!launch) return;
  world_.emplace(*launch);
  share_cores(*world_);
  if (world_->rank() > 0) print_nothing();
}

void RankSession::finish(double deadline) {
  if (world_) world_->finish(deadline);
}

void refuse_many_ranks(const char* command) {
  const std::optional<Launch> launch = find_launch();
  DT_CHECK_USAGE(!launch,
                 "{} runs in one process, and {} has started {}; train is the command that runs over ranks so far",
                 command, launch->launcher, launch->size);
}

}  // namespace deeptitan
