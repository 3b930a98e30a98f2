#include "terminal_line.h"

#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "core/file.h"

namespace deeptitan {
namespace {

volatile std::sig_atomic_t interrupt_noted = 0;
// What wakes a reader, also where the signal comes just before it begins to wait.
int wake_read = -1;
int wake_write = -1;
struct sigaction previous_action;

void note_interrupt(int /*signal*/) {
  const int before = errno;
  interrupt_noted = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_write, "!", 1);  // a full pipe wakes as well
  errno = before;
}

}  // namespace

InterruptNotes::InterruptNotes() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) fail_file("open", "a pipe", errno);
  wake_read = ends[0];
  wake_write = ends[1];
  struct sigaction action = {};
  action.sa_handler = note_interrupt;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &previous_action);
}

InterruptNotes::~InterruptNotes() {
  sigaction(SIGINT, &previous_action, nullptr);
  ::close(wake_read);
  ::close(wake_write);
  wake_read = wake_write = -1;
}

bool InterruptNotes::noted() {
  return interrupt_noted != 0;
}

void InterruptNotes::clear() {
  char block[64];
  while (::read(wake_read, block, sizeof block) > 0) {
  }
  interrupt_noted = 0;
}

LineResult InputBytes::read_block(std::string& buffer) {
  while (true) {
    pollfd files[] = {{STDIN_FILENO, POLLIN, 0}, {wake_read, POLLIN, 0}};
    if (::poll(files, 2, -1) < 0 && errno != EINTR) fail_file("wait for", "standard input", errno);
    if (InterruptNotes::noted()) return LineResult::kInterrupted;
    if (files[0].revents == 0) continue;
    char block[65536];
    const ssize_t bytes = ::read(STDIN_FILENO, block, sizeof block);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) fail_file("read", "standard input", errno);
    buffer.append(block, static_cast<size_t>(bytes));
    return bytes == 0 ? LineResult::kEnd : LineResult::kLine;
  }
}

LineResult InputBytes::next(char& byte) {
  if (place_ == buffer_.size()) {
    buffer_.clear();
    place_ = 0;
    if (const LineResult result = read_block(buffer_); result != LineResult::kLine) return result;
  }
  byte = buffer_[place_++];
  return LineResult::kLine;
}

bool LineReader::take_line(std::string& line) {
  const size_t end = buffer_.find('\n');
  if (end == std::string::npos && (!at_end_ || buffer_.empty())) return false;
  line = buffer_.substr(0, end);
  buffer_.erase(0, end == std::string::npos ? end : end + 1);
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return true;
}

LineResult LineReader::read(std::string& line) {
  while (!take_line(line)) {
    if (at_end_) return LineResult::kEnd;
    const LineResult result = InputBytes::read_block(buffer_);
    if (result == LineResult::kInterrupted) return result;
    at_end_ = result == LineResult::kEnd;
  }
  return LineResult::kLine;
}

bool LineReader::read_ready(std::string& line) {
  while (!take_line(line)) {
    pollfd input = {STDIN_FILENO, POLLIN, 0};
    if (at_end_ || ::poll(&input, 1, 0) <= 0) return false;
    const LineResult result = InputBytes::read_block(buffer_);
    if (result == LineResult::kInterrupted) return false;
    at_end_ = result == LineResult::kEnd;
  }
  return true;
}

}  // namespace deeptitan
