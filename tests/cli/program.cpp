#include "cli/program.h"

#include <array>

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"

namespace deeptitan::testing {
namespace {

struct Pipe {
  int read_end = -1;
  int write_end = -1;
};

Pipe open_pipe() {
  int ends[2];
  DT_CHECK(::pipe2(ends, O_CLOEXEC) == 0, "no pipe for the program's output");
  return {ends[0], ends[1]};
}

// Appends what can be read; closes the descriptor at the end.
void drain(int& descriptor, std::string& text) {
  std::array<char, 4096> block;
  const ssize_t count = ::read(descriptor, block.data(), block.size());
  if (count > 0) {
    text.append(block.data(), static_cast<size_t>(count));
  } else {
    ::close(descriptor);
    descriptor = -1;
  }
}

}  // namespace

Program::Program(const std::vector<std::string>& arguments, const ProgramOptions& options) {
  const Pipe in = open_pipe(), out = open_pipe(), err = open_pipe();
  std::vector<char*> argv;
  for (const std::string& word : options.launcher) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(const_cast<char*>(DT_PROGRAM));
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_ = ::fork();
  DT_CHECK(pid_ >= 0, "no process for the program");
  if (pid_ == 0) {
    ::dup2(in.read_end, STDIN_FILENO);
    ::dup2(out.write_end, STDOUT_FILENO);
    ::dup2(err.write_end, STDERR_FILENO);
    if (!options.output_file.empty()) ::dup2(::open(options.output_file.c_str(), O_WRONLY), STDOUT_FILENO);
    if (!options.error_file.empty()) ::dup2(::open(options.error_file.c_str(), O_WRONLY), STDERR_FILENO);
    for (const int descriptor : options.closed) ::close(descriptor);
    if (options.largest_file_bytes > 0) {
      const rlimit limit{static_cast<rlim_t>(options.largest_file_bytes),
                         static_cast<rlim_t>(options.largest_file_bytes)};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(in.read_end);
  ::close(out.write_end);
  ::close(err.write_end);
  out_ = out.read_end;
  err_ = err.read_end;
  // Inputs here are far below a pipe's capacity, so this cannot block.
  const ssize_t written = ::write(in.write_end, options.input.data(), options.input.size());
  ::close(in.write_end);
  DT_CHECK(written == static_cast<ssize_t>(options.input.size()), "the program took only a part of its input");
}

Program::~Program() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    finish();
  }
}

bool Program::read_some() {
  std::array<pollfd, 2> files = {pollfd{out_, POLLIN, 0}, pollfd{err_, POLLIN, 0}};
  if (out_ < 0 && err_ < 0) return false;
  ::poll(files.data(), files.size(), -1);
  if (files[0].revents != 0) drain(out_, outcome_.out);
  if (files[1].revents != 0) drain(err_, outcome_.err);
  return true;
}

bool Program::wait_for_output(const std::string& text) {
  while (outcome_.out.find(text) == std::string::npos) {
    if (!read_some()) return false;
  }
  return true;
}

void Program::close_output() {
  ::close(out_);
  out_ = -1;
}

Outcome Program::finish() {
  while (read_some()) {
  }
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  outcome_.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome_;
}

}  // namespace deeptitan::testing
