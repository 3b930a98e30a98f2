#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "terminal_line.h"

namespace deeptitan {

/// Lines that were typed, in a file of one JSON string a line that sessions append to and share.
class LineHistory {
 public:
  /// Nothing is kept where `file` is empty.
  explicit LineHistory(std::filesystem::path file) : file_(std::move(file)) {}

  /// The last of the lines, the oldest first; none where the file cannot be read.
  std::vector<std::string> load() const;
  /// Adds a line. Throws Error where the file cannot be written.
  void append(const std::string& line) const;

 private:
  std::filesystem::path file_;
};

/// chat_history in $XDG_STATE_HOME/deeptitan, or in ~/.local/state/deeptitan; DEEPTITAN_HISTORY names another file, and
/// none where it is empty.
std::filesystem::path chat_history_file();

/// What stands before a line: a label, in a colour (an escape sequence) where there is one, and what ends it.
struct LinePrompt {
  std::string label;
  std::string colour = {};
  std::string end;
};

/// Reads lines from a terminal, with editing (libedit, keys as in Emacs), history, and pasted text that comes in whole:
/// a bracketed paste may hold line feeds, and Alt-Enter types one. A line may be of any length. For as long as one
/// exists (one at a time, and InterruptNotes beside it), the terminal hands over what is typed at once, so that nothing
/// is cut that is typed or pasted while a model answers.
class LineEditor {
 public:
  explicit LineEditor(LineHistory history);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  /// As LineReader::read; the prompt is shown before the line.
  LineResult read(const LinePrompt& prompt, std::string& line);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace deeptitan
