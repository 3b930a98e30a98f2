#include "standard_output.h"

#include <cerrno>
#include <cstdio>
#include <system_error>

#include "core/error.h"

namespace deeptitan {
namespace {

[[noreturn]] void fail_output(int error_number) {
  fail("cannot write to standard output: {}{}", std::generic_category().message(error_number),
       error_number == ENOSPC ? "; make room where it goes to" : "");
}

}  // namespace

void write_output(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
    fail_output(errno);
  }
}

void flush_output() {
  // An earlier write may have failed unseen, and its bytes are gone.
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) fail_output(errno);
}

}  // namespace deeptitan
