#include "standard_input.h"

#include <array>
#include <cerrno>

#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"

namespace deeptitan {

bool standard_input_is_terminal() {
  return ::isatty(STDIN_FILENO) == 1;
}

bool standard_input_holds_text() {
  struct stat status = {};
  if (::fstat(STDIN_FILENO, &status) != 0) return false;
  if (S_ISREG(status.st_mode)) return ::lseek(STDIN_FILENO, 0, SEEK_CUR) < status.st_size;
  int waiting = 0;
  return (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode)) && ::ioctl(STDIN_FILENO, FIONREAD, &waiting) == 0 &&
         waiting > 0;
}

std::string read_standard_input() {
  std::string text;
  std::array<char, 65536> block;
  while (true) {
    const ssize_t bytes = ::read(STDIN_FILENO, block.data(), block.size());
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) fail_file("read", "standard input", errno);
    if (bytes == 0) return text;
    text.append(block.data(), static_cast<size_t>(bytes));
  }
}

std::string read_file_or_input(const std::string& path) {
  return path == "-" ? read_standard_input() : read_file_or_pipe(path);
}

}  // namespace deeptitan
