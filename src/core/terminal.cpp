#include "core/terminal.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

#include <sys/ioctl.h>
#include <unistd.h>

namespace deeptitan {

int terminal_width(int descriptor) {
  constexpr int kUsual = 80;
  winsize size = {};
  if (::ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* columns = std::getenv("COLUMNS");
  if (columns == nullptr) return kUsual;
  int width = 0;
  const std::string_view text = columns;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), width);
  return error == std::errc() && rest == text.data() + text.size() && width > 0 ? width : kUsual;
}

}  // namespace deeptitan
