#include "kernels/cuda/all_to_all/all_to_all.h"

#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/all_to_all/launch.h"
#include "kernels/cuda/all_to_all/pad_layout.h"
#include "kernels/cuda/error.h"

namespace deeptitan::cuda {
namespace {

/// Received bytes for which another block is worth its share of the launch and of the count at the end.
constexpr int64_t kBytesPerBlock = 16 << 10;
/// Received bytes above which bulk copies pay: a ring needs a few microseconds to fill and drain.
constexpr int64_t kBulkBytes = 1 << 20;
/// Largest row and mailbox: kernels count their words in 32 bits.
constexpr int64_t kMostBytes = 1 << 30;
/// Blocks that saturate the link: 32 pull 328 GB/s and push 351 on an H200, 132 push 360.
constexpr int kDefaultBlocks = 132;

void check_arguments(const AllToAllArguments& a) {
  const PeerWindow& window = a.window;
  DT_CHECK(window.n_ranks >= 1 && window.n_ranks <= kMaxPeerRanks && window.rank >= 0 && window.rank < window.n_ranks,
           "all-to-all: rank {} of {} ranks; a window holds 1 to {} ranks", window.rank, window.n_ranks, kMaxPeerRanks);
  DT_CHECK(a.n_groups >= 1 && a.n_groups <= a.pad.max_groups,
           "all-to-all: n_groups = {}, but the pad was laid out for 1 to {}; raise its max_groups", a.n_groups,
           a.pad.max_groups);
  DT_CHECK(a.pad.offset >= 0 && a.pad.offset % 128 == 0, "all-to-all: pad.offset = {} is not a multiple of 128",
           a.pad.offset);
  DT_CHECK(a.pad.mailbox_bytes >= 0 && a.pad.mailbox_bytes <= kMostBytes && a.pad.mailbox_bytes % 128 == 0,
           "all-to-all: pad.mailbox_bytes = {} is not a multiple of 128 in [0, {}]", a.pad.mailbox_bytes, kMostBytes);
  DT_CHECK(a.n_payloads == 1 || a.n_payloads == 2, "all-to-all: n_payloads = {}; use 1, or 2 for rows and their scales",
           a.n_payloads);
  for (int k = 0; k < a.n_payloads; ++k) {
    const AllToAllPayload& payload = a.payloads[k];
    DT_CHECK(payload.row_bytes > 0 && payload.row_bytes <= kMostBytes && payload.row_bytes % 4 == 0,
             "all-to-all: payload {} has rows of {} bytes; they must be a multiple of 4 in [4, {}]", k,
             payload.row_bytes, kMostBytes);
    DT_CHECK(payload.input_offset >= 0 && payload.input_offset % 16 == 0 &&
                 reinterpret_cast<uintptr_t>(payload.output) % 16 == 0,
             "all-to-all: payload {} lies at window offset {} and output {}; both must be multiples of 16", k,
             payload.input_offset, payload.output);
    DT_CHECK(
        a.direction == MoveDirection::kPull || payload.output >= window.base[window.rank],
        "all-to-all: payload {} is to be pushed, but its output {} lies before the window at {}; push needs outputs "
        "in the window, pull does not",
        k, payload.output, static_cast<const void*>(window.base[window.rank]));
  }
  DT_CHECK(a.capacity_rows >= 0 && a.capacity_rows <= INT32_MAX,
           "all-to-all: capacity_rows = {} is not in [0, 2147483647]", a.capacity_rows);
  DT_CHECK(a.max_blocks >= 0, "all-to-all: max_blocks = {} is negative; use 0 for the default", a.max_blocks);
  DT_CHECK(a.timeout_ns > 0, "all-to-all: timeout_ns = {}; give the longest wait in nanoseconds, above zero",
           a.timeout_ns);
}

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0;
  int value = 0;
  DT_CUDA_CHECK(cudaGetDevice(&device));
  DT_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

}  // namespace

int64_t all_to_all_pad_bytes(const AllToAllPad& pad, int n_ranks) {
  return PadLayout(pad, n_ranks).bytes;
}

void all_to_all_v(const AllToAllArguments& a, cudaStream_t stream) {
  check_arguments(a);
  int64_t row_bytes = 0;
  for (int k = 0; k < a.n_payloads; ++k) row_bytes += a.payloads[k].row_bytes;
  const int64_t most_bytes = a.capacity_rows * row_bytes;
  const int64_t wanted = (most_bytes + kBytesPerBlock - 1) / kBytesPerBlock;
  const int multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount);
  const int most = std::min(a.max_blocks == 0 ? kDefaultBlocks : a.max_blocks, multiprocessors);
  const int blocks = static_cast<int>(std::clamp<int64_t>(wanted, 1, most));
  const bool hopper = device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9;
  const RowCopies copies = !hopper || most_bytes <= kBulkBytes ? RowCopies::kThreads
                           : blocks <= multiprocessors / 4     ? RowCopies::kBulkByFewBlocks
                                                               : RowCopies::kBulk;
  launch_all_to_all_v(a, {blocks, copies, hopper}, stream);
}

}  // namespace deeptitan::cuda
