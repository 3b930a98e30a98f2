#include "cli/terminal_program.h"

#include <array>
#include <csignal>

#include <pty.h>
#include <sys/wait.h>
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

TerminalProgram::TerminalProgram(const std::vector<std::string>& arguments) {
  std::vector<char*> argv = {const_cast<char*>(DT_PROGRAM)};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_ = ::forkpty(&terminal_, nullptr, nullptr, nullptr);
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

void TerminalProgram::type(const std::string& text) const {
  const ssize_t written = ::write(terminal_, text.data(), text.size());
  DT_CHECK(written == static_cast<ssize_t>(text.size()), "the terminal took only a part of what was typed");
}

bool TerminalProgram::read_some() {
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

int TerminalProgram::finish() {
  while (read_some()) {
  }
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace deeptitan::testing
