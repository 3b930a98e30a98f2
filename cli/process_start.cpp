#include "process_start.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <string>

#include <fcntl.h>
#include <unistd.h>

#include "core/mapping_guard.h"

namespace deeptitan {

void prepare_process() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // Opened for reading alone: what is written to a standard output that was closed still fails, and is noticed.
    if (::fcntl(descriptor, F_GETFD) < 0 && errno == EBADF) ::open("/dev/null", O_RDONLY);
  }
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  report_lost_mappings();
}

void report_error(std::string_view message) {
  std::fputs(("deeptitan: " + std::string(message) + "\n").c_str(), stderr);
}

}  // namespace deeptitan
