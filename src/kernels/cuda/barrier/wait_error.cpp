#include "kernels/cuda/barrier/wait_error.h"

#include <fmt/format.h>

#include "core/error.h"

namespace deeptitan::cuda {

std::string describe_wait_error(uint64_t word, int64_t timeout_ns) {
  const WaitError error = decode_wait_error(word);
  const char* what = "";
  switch (error.kind) {
    case WaitKind::kNone:
      return "no wait has failed";
    case WaitKind::kInvalidSplits:
      return fmt::format(
          "all-to-all {}: rank {} asked to send rank {} a number of rows that is negative or above 2147483647; check "
          "the splits that it was given",
          error.epoch, error.rank, error.peer);
    case WaitKind::kBarrier:
      what = "to arrive at barrier";
      break;
    case WaitKind::kSplits:
      what = "to send its splits of all-to-all";
      break;
    case WaitKind::kRows:
      what = "to send the rows it announced in all-to-all";
      break;
    case WaitKind::kRelease:
      what = "to finish reading this rank's rows in all-to-all";
      break;
  }
  return fmt::format(
      "rank {} waited {} s for rank {} {} {}; see the log of rank {} for why it stopped, or raise the time-out if it "
      "was only slow",
      error.rank, static_cast<double>(timeout_ns) * 1e-9, error.peer, what, error.epoch, error.peer);
}

void check_wait_error(uint64_t word, int64_t timeout_ns) {
  DT_CHECK(word == 0, "{}", describe_wait_error(word, timeout_ns));
}

}  // namespace deeptitan::cuda
