#include "chat_display.h"

#include <algorithm>

#include <unistd.h>

#include "comm/mpi/launcher.h"
#include "standard_output.h"

namespace deeptitan {

// A launcher may give a rank a terminal of its own, and its output to a file.
ChatDisplay::ChatDisplay()
    : input_(::isatty(STDIN_FILENO) == 1), output_(::isatty(STDOUT_FILENO) == 1 && !find_launch()) {}

void ChatDisplay::echo(const std::string& line) const {
  if (!input_) write(line + "\n");
}

void ChatDisplay::label(Part part) const {
  if (part == Part::kThinking) {
    write(output_ ? "\033[1;36massistant\033[0m \033[2mthinks: " : "assistant thinks: ");
  } else {
    write(output_ ? "\033[1;36massistant\033[0m: " : "assistant: ");
  }
}

void ChatDisplay::piece(std::string_view text, bool thinking) {
  const Part part = thinking ? Part::kThinking : Part::kAnswer;
  if (part != part_) {
    // Line feeds around the tags belong to the tags.
    text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
    if (text.empty()) return;
    if (part_ != Part::kNone) write(output_ ? "\033[0m\n" : "\n");
    label(part);
    part_ = part;
  }
  write(text);
}

void ChatDisplay::end_answer() {
  if (part_ == Part::kNone) {
    label(Part::kAnswer);
    write(output_ ? "\033[2m(an empty answer)" : "(an empty answer)");
  }
  write(output_ ? "\033[0m\n" : "\n");
}

void ChatDisplay::write(std::string_view text) const {
  write_output(text);
  flush_output();
}

}  // namespace deeptitan
