#pragma once

#include <string>

namespace deeptitan {

/// While one exists (one at a time), Ctrl-C (SIGINT) is noted instead of ending the program. Throws Error where the
/// system gives no pipe.
class InterruptNotes {
 public:
  InterruptNotes();
  ~InterruptNotes();
  InterruptNotes(const InterruptNotes&) = delete;
  InterruptNotes& operator=(const InterruptNotes&) = delete;

  /// Whether one has come since clear().
  static bool noted();
  static void clear();
};

enum class LineResult { kLine, kInterrupted, kEnd };

/// The bytes of standard input, unbuffered by the C library so that Ctrl-C ends a read at once, which
/// InterruptNotes::clear() makes it forget.
class InputBytes {
 public:
  /// Waits for bytes and puts them behind `buffer`. kEnd: the input is over; kInterrupted: Ctrl-C was noted; kLine:
  /// neither. Throws Error where it cannot be read.
  static LineResult read_block(std::string& buffer);

  /// The next byte.
  LineResult next(char& byte);

 private:
  std::string buffer_;
  size_t place_ = 0;
};

/// Reads standard input a line at a time.
class LineReader {
 public:
  /// The next line without its line feed. kEnd: the input is over; kInterrupted: Ctrl-C was noted. Throws Error where
  /// it cannot be read.
  LineResult read(std::string& line);
  /// The next line where it has come already; does not wait.
  bool read_ready(std::string& line);

 private:
  bool take_line(std::string& line);

  std::string buffer_;
  bool at_end_ = false;
};

}  // namespace deeptitan
