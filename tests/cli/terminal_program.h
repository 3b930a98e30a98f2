#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

namespace deeptitan::testing {

/// The built deeptitan (DT_PROGRAM) on a pseudo-terminal of its own, which is its input and both its outputs.
class TerminalProgram {
 public:
  /// Whether a pseudo-terminal can be opened here: a bare chroot or container may lack /dev/pts.
  static bool has_terminals();

  explicit TerminalProgram(const std::vector<std::string>& arguments, int columns = 80);
  ~TerminalProgram();
  TerminalProgram(const TerminalProgram&) = delete;
  TerminalProgram& operator=(const TerminalProgram&) = delete;

  pid_t pid() const { return pid_; }
  /// Types `text`; "\x03" is Ctrl-C, "\x04" Ctrl-D.
  void type(const std::string& text);
  /// Reads on until `text` has come behind what was last waited for; false where the program ends first.
  bool wait_for(const std::string& text);
  /// Whether the terminal, as the program has set it now, shows what is on its way where a key interrupts.
  bool keeps_output() const;
  /// Reads to the end and waits for the program: its exit code, or 128 + N where signal N ended it.
  int finish();
  /// All that the terminal has shown.
  const std::string& shown() const { return shown_; }

 private:
  bool read_some();

  pid_t pid_ = -1;
  int terminal_ = -1;
  std::string shown_;
  size_t waited_for_ = 0;
};

}  // namespace deeptitan::testing
