#include "process_start.h"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>

#include <fcntl.h>
#include <unistd.h>

#include "comm/mpi/launcher.h"
#include "core/mapping_guard.h"

namespace deeptitan {
namespace {

constexpr auto kFirstRankSpeaks = std::chrono::milliseconds(1500);
constexpr auto kOthersSpeak = kFirstRankSpeaks + std::chrono::milliseconds(1000);

int speaking_rank = 0;

}  // namespace

void prepare_process() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // Opened for reading alone: what is written to a standard output that was closed still fails, and is noticed.
    if (::fcntl(descriptor, F_GETFD) < 0 && errno == EBADF) ::open("/dev/null", O_RDONLY);
  }
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  report_lost_mappings();
}

void speak_as_rank(int rank) {
  speaking_rank = rank;
}

void report_error(std::string_view message) {
  if (const std::optional<Launch> launch = find_launch()) speaking_rank = launch->rank;
  std::string speaker = "deeptitan: ";
  if (speaking_rank > 0) {
    std::signal(SIGTERM, SIG_DFL);
    std::this_thread::sleep_for(kFirstRankSpeaks);
    speaker += "rank " + std::to_string(speaking_rank) + ": ";
  }
  std::fputs((speaker + std::string(message) + "\n").c_str(), stderr);
}

void let_other_ranks_speak() {
  if (find_launch()) std::this_thread::sleep_for(kOthersSpeak);
}

}  // namespace deeptitan
