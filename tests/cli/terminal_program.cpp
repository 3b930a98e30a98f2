#include "cli/terminal_program.h"

#include <algorithm>
#include <array>
#include <csignal>

#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "core/error.h"

namespace deeptitan::testing {

bool TerminalProgram::has_terminals() {
  int ours = -1;
  int theirs = -1;
  if (::openpty(&ours, &theirs, nullptr, nullptr, nullptr) != 0) return false;
  ::close(ours);
  ::close(theirs);
  return true;
}

TerminalProgram::TerminalProgram(const std::vector<std::string>& arguments, int columns) {
  std::vector<char*> argv = {const_cast<char*>(DT_PROGRAM)};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  winsize size = {};
  size.ws_row = 24;
  size.ws_col = static_cast<unsigned short>(columns);
  pid_ = ::forkpty(&terminal_, nullptr, nullptr, &size);
  DT_CHECK(pid_ >= 0, "no pseudo-terminal for the program");
  if (pid_ == 0) {
    ::execv(DT_PROGRAM, argv.data());
    ::_exit(127);
  }
}

TerminalProgram::~TerminalProgram() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    finish();
  }
  ::close(terminal_);
}

void TerminalProgram::type(const std::string& text) {
  // What the program shows meanwhile is read, or both would wait for the other.
  for (size_t typed = 0; typed < text.size();) {
    pollfd terminal = {terminal_, POLLIN | POLLOUT, 0};
    ::poll(&terminal, 1, -1);
    if ((terminal.revents & POLLIN) != 0) read_some();
    if ((terminal.revents & POLLOUT) == 0) continue;
    const ssize_t written = ::write(terminal_, text.data() + typed, std::min<size_t>(text.size() - typed, 256));
    DT_CHECK(written > 0, "the terminal took only a part of what was typed");
    typed += static_cast<size_t>(written);
  }
}

bool TerminalProgram::read_some() {
  // A program that shows nothing for so long waits for ever: it is ended, and the test says what it had shown.
  pollfd terminal = {terminal_, POLLIN, 0};
  if (::poll(&terminal, 1, 60'000) == 0) {
    ::kill(pid_, SIGKILL);
    return false;
  }
  std::array<char, 4096> block;
  const ssize_t count = ::read(terminal_, block.data(), block.size());  // fails where the program has gone
  if (count <= 0) return false;
  shown_.append(block.data(), static_cast<size_t>(count));
  return true;
}

bool TerminalProgram::wait_for(const std::string& text) {
  while (true) {
    const size_t found = shown_.find(text, waited_for_);
    if (found != std::string::npos) {
      waited_for_ = found + text.size();
      return true;
    }
    if (!read_some()) return false;
  }
}

bool TerminalProgram::keeps_output() const {
  termios settings = {};
  DT_CHECK(::tcgetattr(terminal_, &settings) == 0, "the terminal does not say how it is set");
  return (settings.c_lflag & NOFLSH) != 0;
}

int TerminalProgram::finish() {
  while (read_some()) {
  }
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace deeptitan::testing
