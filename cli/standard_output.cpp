#include "standard_output.h"

#include <cerrno>
#include <cstdio>

#include "core/file.h"

namespace deeptitan {

void write_output(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
    fail_file("write to", "standard output", errno);
  }
}

void flush_output() {
  // An earlier write may have failed unseen, and its bytes are gone.
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) fail_file("write to", "standard output", errno);
}

}  // namespace deeptitan
