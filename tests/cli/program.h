#pragma once

#include <csignal>
#include <cstdint>
#include <string>
#include <vector>

#include <sys/types.h>

namespace deeptitan::testing {

/// What a run of the program left behind.
struct Outcome {
  int exit_code = -1;  // 128 + N where signal N ended it, as a shell says it
  std::string out;
  std::string err;
};

struct ProgramOptions {
  std::string input = {};                  // of standard input
  std::string output_file = {};            // that standard output goes to in place of a pipe
  std::string error_file = {};             // the same for standard error
  std::vector<int> closed = {};            // descriptors that it begins without
  std::vector<std::string> launcher = {};  // what the program is started by, such as {"mpirun", "-np", "2"}
  int64_t largest_file_bytes = 0;          // RLIMIT_FSIZE: writing beyond it fails as on a full disk; 0 = no limit
};

/// The built deeptitan (DT_PROGRAM) in a process of its own, with both outputs caught by pipes.
class Program {
 public:
  explicit Program(const std::vector<std::string>& arguments, const ProgramOptions& options = {});
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  /// Reads until standard output holds `text` or ends; returns whether it does.
  bool wait_for_output(const std::string& text);
  /// Reads no more of standard output, as a `head` that has seen enough.
  void close_output();
  pid_t pid() const { return pid_; }
  void send_signal(int number) const { ::kill(pid_, number); }
  /// Reads to the end and waits for the process.
  Outcome finish();

 private:
  bool read_some();

  pid_t pid_ = -1;
  int out_ = -1;
  int err_ = -1;
  Outcome outcome_;
};

/// Runs the program to its end.
inline Outcome run_program(const std::vector<std::string>& arguments, const ProgramOptions& options = {}) {
  return Program(arguments, options).finish();
}

}  // namespace deeptitan::testing
