#include "start_ranks.h"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/mpi/mpi_world.h"
#include "core/error.h"

namespace deeptitan {
namespace {

volatile std::sig_atomic_t launcher_pid = 0;
volatile std::sig_atomic_t interrupts = 0;

// mpirun passes SIGUSR1 on to all ranks, which save and end at it; SIGTERM makes it end them.
void pass_on(int signal) {
  if (launcher_pid == 0) return;
  if (signal == SIGINT) interrupts = interrupts + 1;
  if (signal == SIGINT && interrupts == 1) {
    constexpr std::string_view kWords = "\nfinishing the step, then saving; Ctrl-C again ends at once\n";
    [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, kWords.data(), kWords.size());
  }
  ::kill(static_cast<pid_t>(launcher_pid), interrupts > 1 ? SIGTERM : SIGUSR1);
}

// The words of this process's command line, as the kernel keeps them.
std::vector<std::string> own_arguments() {
  std::vector<std::string> words;
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  DT_CHECK(!words.empty(), "cannot read this program's own command line in /proc/self/cmdline");
  return words;
}

std::vector<std::string> launcher_arguments(int64_t ranks, const std::string& library) {
  std::vector<std::string> words = {"mpirun", "-np", std::to_string(ranks)};
  if (library.starts_with("Open MPI")) {
    // No more than this: its own placement would bind a rank and all its threads to one core.
    for (const char* word : {"--oversubscribe", "--bind-to", "none"}) words.emplace_back(word);
    if (::geteuid() == 0) words.emplace_back("--allow-run-as-root");
  }
  char program[4096] = "";
  const ssize_t length = ::readlink("/proc/self/exe", program, sizeof program - 1);
  DT_CHECK(length > 0, "cannot find this program's own file in /proc/self/exe");
  words.emplace_back(program);
  const std::vector<std::string> own = own_arguments();
  words.insert(words.end(), own.begin() + 1, own.end());
  return words;
}

constexpr int kPassedOn[] = {SIGINT, SIGTERM, SIGUSR1, SIGHUP};

// What comes while the launcher is not there yet waits until it is.
class SignalsHeld {
 public:
  SignalsHeld() {
    sigset_t held;
    ::sigemptyset(&held);
    for (const int signal : kPassedOn) ::sigaddset(&held, signal);
    ::pthread_sigmask(SIG_BLOCK, &held, &before_);
  }
  ~SignalsHeld() { release(); }
  void release() const { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsHeld(const SignalsHeld&) = delete;
  SignalsHeld& operator=(const SignalsHeld&) = delete;

 private:
  sigset_t before_;
};

[[noreturn]] void become_launcher(std::vector<std::string> words, int failure, const SignalsHeld& signals) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  ::setpgid(0, 0);  // the terminal's Ctrl-C comes to the parent alone
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) std::signal(signal, SIG_DFL);
  if (std::signal(SIGHUP, SIG_DFL) == SIG_IGN) std::signal(SIGHUP, SIG_IGN);
  signals.release();  // with the handlers that the launcher begins with
  const int nothing = ::open("/dev/null", O_RDONLY);
  ::dup2(nothing, STDIN_FILENO);
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  const int error = errno;
  [[maybe_unused]] const ssize_t ignored = ::write(failure, &error, sizeof error);
  ::_exit(127);
}

}  // namespace

int start_ranks(int64_t ranks) {
  const std::vector<std::string> words = launcher_arguments(ranks, check_mpi_plugin());
  int failure[2];
  DT_CHECK(::pipe2(failure, O_CLOEXEC) == 0, "no pipe to start mpirun with: {}", std::strerror(errno));
  pid_t child = -1;
  {
    const SignalsHeld signals;
    for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) std::signal(signal, pass_on);
    if (std::signal(SIGHUP, pass_on) == SIG_IGN) std::signal(SIGHUP, SIG_IGN);  // nohup
    child = ::fork();
    DT_CHECK(child >= 0, "cannot start mpirun: {}", std::strerror(errno));
    if (child == 0) become_launcher(words, failure[1], signals);
    launcher_pid = child;
  }
  ::close(failure[1]);
  int error = 0;
  const bool failed = ::read(failure[0], &error, sizeof error) == sizeof error;
  ::close(failure[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  DT_CHECK_USAGE(!failed,
                 "--ranks {} needs mpirun, which cannot be started: {}; install openmpi-bin, or put it on PATH", ranks,
                 std::strerror(error));
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace deeptitan
