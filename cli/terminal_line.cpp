#include "terminal_line.h"

#include <cerrno>
#include <csignal>

#include <unistd.h>

#include "core/file.h"

namespace deeptitan {
namespace {

volatile std::sig_atomic_t interrupt_noted = 0;
struct sigaction previous_action;

void note_interrupt(int /*signal*/) {
  interrupt_noted = 1;
}

}  // namespace

InterruptNotes::InterruptNotes() {
  struct sigaction action = {};
  action.sa_handler = note_interrupt;
  sigemptyset(&action.sa_mask);  // no SA_RESTART: a read that waits for a line returns
  sigaction(SIGINT, &action, &previous_action);
}

InterruptNotes::~InterruptNotes() {
  sigaction(SIGINT, &previous_action, nullptr);
}

bool InterruptNotes::noted() {
  return interrupt_noted != 0;
}

void InterruptNotes::clear() {
  interrupt_noted = 0;
}

LineResult LineReader::read(std::string& line) {
  while (true) {
    const size_t end = buffer_.find('\n');
    if (end != std::string::npos || (at_end_ && !buffer_.empty())) {
      line = buffer_.substr(0, end);
      buffer_.erase(0, end == std::string::npos ? end : end + 1);
      if (!line.empty() && line.back() == '\r') line.pop_back();
      return LineResult::kLine;
    }
    if (at_end_) return LineResult::kEnd;
    char block[4096];
    const ssize_t bytes = ::read(STDIN_FILENO, block, sizeof block);
    if (bytes < 0 && errno == EINTR) return LineResult::kInterrupted;
    if (bytes < 0) fail_file("read", "standard input", errno);
    at_end_ = bytes == 0;
    buffer_.append(block, static_cast<size_t>(bytes));
  }
}

}  // namespace deeptitan
