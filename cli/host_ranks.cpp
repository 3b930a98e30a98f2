#include "host_ranks.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/error.h"
#include "process_start.h"

namespace deeptitan {
namespace {

// A rank that has closed its sockets still says why (report_error).
constexpr double kSecondsToSayWhy = 5;
// The others wait for each other as long as the first for them, and then as report_error does.
constexpr double kSecondsToSpeak = 2.5;
// Much memory takes a while to give back.
constexpr double kSecondsToEnd = 60;
constexpr auto kPause = std::chrono::milliseconds(2);

// All sockets are opened by one process: more than a shell lets it, where there are dozens of ranks.
void raise_file_limit(int ranks) {
  constexpr rlim_t kOthers = 256;
  const rlim_t wanted = static_cast<rlim_t>(ranks) * (ranks - 1) + kOthers;
  rlimit files = {};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= wanted) return;
  files.rlim_cur = std::min(wanted, files.rlim_max);
  ::setrlimit(RLIMIT_NOFILE, &files);
}

}  // namespace

HostRanks::HostRanks(int ranks) {
  raise_file_limit(ranks);
  std::vector<std::vector<int>> sockets = connect_all(ranks);
  // What has been written is written once.
  std::fflush(nullptr);
  const pid_t first = ::getpid();
  int rank = 0;
  for (int r = 1; r < ranks && rank == 0; ++r) {
    const pid_t child = ::fork();
    DT_CHECK(child >= 0, "cannot start rank {} of {}: {}", r, ranks, std::strerror(errno));
    if (child == 0) {
      rank = r;
      children_.clear();
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != first) ::_exit(1);
    } else {
      children_.push_back({.pid = child});
    }
  }
  for (int r = 0; r < ranks; ++r) {
    for (const int socket : sockets[r]) {
      if (r != rank && socket >= 0) ::close(socket);
    }
  }
  if (rank > 0) begin_child(rank);
  transport_ = std::make_unique<SocketTransport>(
      rank, std::move(sockets[rank]), [this](const std::vector<int>& ended) { return how_they_ended(ended); });
}

// The terminal is the first rank's, and so is its Ctrl-C.
void HostRanks::begin_child(int rank) {
  std::signal(SIGINT, SIG_IGN);
  const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (nothing >= 0) {
    ::dup2(nothing, STDIN_FILENO);
    ::close(nothing);
  }
  speak_as_rank(rank);
}

HostRanks::~HostRanks() {
  for (Child& child : children_) {
    if (child.ended) continue;
    ::kill(child.pid, SIGKILL);
    wait_for(child, kSecondsToSayWhy);
  }
}

bool HostRanks::wait_for(Child& child, double seconds) {
  const double until = monotonic_seconds() + seconds;
  while (!child.ended) {
    const pid_t found = ::waitpid(child.pid, &child.status, WNOHANG);
    child.ended = found == child.pid || (found < 0 && errno == ECHILD);
    if (child.ended || monotonic_seconds() >= until) break;
    std::this_thread::sleep_for(kPause);
  }
  return child.ended;
}

void HostRanks::finish() {
  for (size_t i = 0; i < children_.size(); ++i) {
    DT_CHECK(wait_for(children_[i], kSecondsToEnd), "rank {} has not ended {} s after it was told to", i + 1,
             kSecondsToEnd);
    DT_CHECK(children_[i].status == 0, "{}", how_it_ended(i));
  }
}

void HostRanks::let_others_speak() {
  const double until = monotonic_seconds() + kSecondsToSpeak;
  bool all_ended = false;
  while (!all_ended && monotonic_seconds() < until) {
    all_ended = true;
    for (Child& child : children_) {
      if (!wait_for(child, 0)) all_ended = false;
      if (child.ended && WIFSIGNALED(child.status)) return;
    }
    std::this_thread::sleep_for(kPause);
  }
}

std::string HostRanks::how_it_ended(size_t child) const {
  const int status = children_[child].status;
  if (!WIFSIGNALED(status)) return fmt::format("rank {} has ended with exit code {}", child + 1, WEXITSTATUS(status));
  const int signal = WTERMSIG(status);
  return fmt::format("rank {} was killed by signal {} ({}){}", child + 1, signal, ::strsignal(signal),
                     signal == SIGKILL ? "; where nobody did that, there was no memory left" : "");
}

std::string HostRanks::how_they_ended(const std::vector<int>& ranks) {
  // Of ranks that end one after the other the first is the cause.
  const double until = monotonic_seconds() + kSecondsToSayWhy;
  do {
    for (size_t i = 0; i < children_.size(); ++i) {
      if (wait_for(children_[i], 0)) return how_it_ended(i);
    }
    std::this_thread::sleep_for(kPause);
  } while (!children_.empty() && monotonic_seconds() < until);
  return fmt::format("rank {} has ended", ranks.front());
}

}  // namespace deeptitan
