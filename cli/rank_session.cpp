#include "rank_session.h"

#include <algorithm>
#include <cstdlib>

#include <fcntl.h>
#include <omp.h>
#include <unistd.h>

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

// A launcher may have bound this rank to some cores; else all ranks of the host have all of them.
void share_cores(int ranks_of_host) {
  if (std::getenv("OMP_NUM_THREADS") != nullptr) return;
  const int here = omp_get_num_procs();
  const bool bound = here < static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  omp_set_num_threads(bound ? here : std::max(1, here / ranks_of_host));
}

}  // namespace

RankSession::RankSession(int64_t ranks) {
  const std::optional<Launch> launch = find_launch();
  DT_CHECK_USAGE(ranks == 0 || !launch || launch->size == ranks,
                 "--ranks {}, but {} has started {} processes; leave --ranks out", ranks,
                 launch ? launch->launcher : "", launch ? launch->size : 1);
  if (!launch) return;
  world_.emplace(*launch);
  share_cores(world_->local_size());
  if (world_->rank() > 0) print_nothing();
}

void RankSession::finish() {
  if (world_) world_->finish();
}

void refuse_many_ranks(const char* command) {
  const std::optional<Launch> launch = find_launch();
  DT_CHECK_USAGE(!launch,
                 "{} runs in one process, and {} has started {}; train is the command that runs over ranks so far",
                 command, launch->launcher, launch->size);
}

}  // namespace deeptitan
