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
void share_cores(Transport& world, bool threads_given) {
  constexpr int kCoresChannel = 65;  // behind those of HostGroups
  std::vector<int> all(world.size());
  std::iota(all.begin(), all.end(), 0);
  HostCommunicator ranks(world, "world", std::move(all), kCoresChannel);
  const int threads = threads_of_rank(gather_texts(ranks, host_and_cores()), world.rank(), omp_get_num_procs());
  if (!threads_given && std::getenv("OMP_NUM_THREADS") == nullptr) omp_set_num_threads(threads);
}

}  // namespace

RankSession::RankSession(int64_t ranks, const Options& options) {
  const std::optional<Launch> launch = find_launch();
  DT_CHECK_USAGE(ranks == 0 || !launch || launch->size == ranks,
                 "--ranks {}, but {} has started {} processes; leave --ranks out", ranks,
                 launch ? launch->launcher : "", launch ? launch->size : 1);
  if (launch) world_.emplace(*launch);
  if (!launch && options.start_here && ranks > 1) host_.emplace(static_cast<int>(ranks));
  if (transport() == nullptr) return;
  share_cores(*transport(), options.threads_given);
  if (transport()->rank() > 0) print_nothing();
}

Transport* RankSession::transport() {
  if (host_) return &host_->transport();
  return world_ ? &world_->transport() : nullptr;
}

HostPlace RankSession::host_place() {
  if (host_) return {host_->transport().rank(), host_->size()};
  return world_ ? HostPlace{world_->local_rank(), world_->local_size()} : HostPlace{};
}

void RankSession::finish(double deadline) {
  if (world_) world_->finish(deadline);
  if (host_) host_->finish();
}

void RankSession::let_others_speak() {
  if (host_) host_->let_others_speak();
}

void refuse_many_ranks(const char* command) {
  const std::optional<Launch> launch = find_launch();
  DT_CHECK_USAGE(!launch,
                 "{} runs in one process, and {} has started {}; the commands that run over ranks are train, generate, "
                 "chat and eval",
                 command, launch->launcher, launch->size);
}

}  // namespace deeptitan
