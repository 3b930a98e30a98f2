#include "kernels/cuda/barrier/barrier.h"

#include <memory>
#include <string>

#include "core/error.h"
#include "kernels/cuda/barrier/wait_error.h"
#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/virtual_ranks.h"

namespace deeptitan::cuda {
namespace {

/// The pads and counters of several ranks on one device.
struct VirtualBarrier {
  explicit VirtualBarrier(int n_ranks, uint32_t first_epoch = 0)
      : pads(n_ranks * barrier_pad_bytes(n_ranks)),
        epochs(std::vector<uint32_t>(n_ranks, first_epoch)),
        errors(std::vector<uint64_t>(n_ranks, 0)),
        arguments(n_ranks) {
    DT_CUDA_CHECK(cudaMemset(pads.get(), 0, pads.bytes()));
    for (int r = 0; r < n_ranks; ++r) {
      BarrierArguments& a = arguments[r];
      for (int p = 0; p < n_ranks; ++p) a.window.base[p] = pads.get() + p * barrier_pad_bytes(n_ranks);
      a.window.rank = r;
      a.window.n_ranks = n_ranks;
      a.pad_offset = 0;
      a.epoch = epochs.get() + r;
      a.error = errors.get() + r;
      a.timeout_ns = 20'000'000'000;
    }
  }

  DeviceBuffer<char> pads;
  DeviceBuffer<uint32_t> epochs;
  DeviceBuffer<uint64_t> errors;
  std::vector<BarrierArguments> arguments;
};

TEST(Barrier, CountsEpochsAcrossTheirWrap) {
  DT_SKIP_WITHOUT_GPU();
  for (const int n_ranks : {2, 8, kMaxPeerRanks}) {
    VirtualBarrier barrier(n_ranks, 0xfffffffdu);
    DT_CUDA_CHECK(cudaMemset(barrier.pads.get(), 0xfd, barrier.pads.bytes()));  // an earlier epoch everywhere
    DeviceBuffer<BarrierArguments> on_device(barrier.arguments);
    for (int i = 0; i < 6; ++i) {
      launch_virtual_barrier(on_device.get(), n_ranks,
                             i % 2 == 0 ? BarrierOrder::kRelaxed : BarrierOrder::kAcquireRelease, nullptr);
    }
    EXPECT_EQ(barrier.epochs.download(), std::vector<uint32_t>(n_ranks, 3));
    EXPECT_EQ(barrier.errors.download(), std::vector<uint64_t>(n_ranks, 0));
  }
}

TEST(Barrier, WritesBeforeItAreSeenAfterIt) {
  DT_SKIP_WITHOUT_GPU();
  for (const int n_ranks : {2, 4, 8, 40}) {
    VirtualBarrier barrier(n_ranks);
    DeviceBuffer<BarrierArguments> on_device(barrier.arguments);
    DeviceBuffer<uint32_t> values(std::vector<uint32_t>(n_ranks, 0));
    DeviceBuffer<uint32_t> mismatches(std::vector<uint32_t>(1, 0));
    launch_barrier_rounds(on_device.get(), n_ranks, 200, values.get(), mismatches.get(), nullptr);
    EXPECT_EQ(mismatches.download()[0], 0u);
    EXPECT_EQ(barrier.errors.download(), std::vector<uint64_t>(n_ranks, 0));
    EXPECT_EQ(barrier.epochs.download(), std::vector<uint32_t>(n_ranks, 400));
  }
}

TEST(Barrier, RankThatNeverComesEndsTheWait) {
  DT_SKIP_WITHOUT_GPU();
  VirtualBarrier barrier(3, 41);
  for (BarrierArguments& a : barrier.arguments) a.timeout_ns = 20'000'000;
  DeviceBuffer<BarrierArguments> on_device(barrier.arguments);
  launch_virtual_barrier(on_device.get(), 2, BarrierOrder::kAcquireRelease, nullptr);  // rank 2 stays away
  const std::vector<uint64_t> errors = barrier.errors.download();
  for (int r = 0; r < 2; ++r) {
    EXPECT_EQ(
        describe_wait_error(errors[r], 20'000'000),
        "rank " + std::to_string(r) +
            " waited 0.02 s for rank 2 to arrive at barrier 42; see the log of rank 2 for why it stopped, or raise "
            "the time-out if it was only slow");
    EXPECT_THROW(check_wait_error(errors[r], 20'000'000), Error);
  }
  EXPECT_EQ(errors[2], 0u);
}

TEST(Barrier, OneRankNeedsNoLaunch) {
  DT_SKIP_WITHOUT_GPU();
  VirtualBarrier barrier(1);
  barrier_ranks(barrier.arguments[0], BarrierOrder::kAcquireRelease, nullptr);
  EXPECT_EQ(barrier.errors.download()[0], 0u);
}

template <typename Change>
std::string message_of(Change change) {
  BarrierArguments a{};
  a.window.n_ranks = 2;
  a.timeout_ns = 1;
  change(a);
  try {
    barrier_ranks(a, BarrierOrder::kRelaxed, nullptr);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(BarrierArguments, MistakesAreNamed) {
  EXPECT_EQ(message_of([](BarrierArguments& a) { a.window.rank = -1; }),
            "barrier: rank -1 of 2 ranks; a window holds 1 to 72 ranks");
  EXPECT_EQ(message_of([](BarrierArguments& a) { a.pad_offset = 4; }),
            "barrier: pad_offset = 4 is not a multiple of 128");
  EXPECT_EQ(message_of([](BarrierArguments& a) { a.timeout_ns = -5; }),
            "barrier: timeout_ns = -5; give the longest wait in nanoseconds, above zero");
}

TEST(WaitErrorWord, EncodingRoundTripsAtTheLimits) {
  for (const WaitError& error :
       {WaitError{WaitKind::kBarrier, 0, 71, 1}, WaitError{WaitKind::kInvalidSplits, 16383, 16383, 0xffffffffu},
        WaitError{WaitKind::kRelease, 71, 0, 0}}) {
    const WaitError back = decode_wait_error(encode_wait_error(error));
    EXPECT_EQ(back.kind, error.kind);
    EXPECT_EQ(back.rank, error.rank);
    EXPECT_EQ(back.peer, error.peer);
    EXPECT_EQ(back.epoch, error.epoch);
  }
  EXPECT_NO_THROW(check_wait_error(0, 1));
}

}  // namespace
}  // namespace deeptitan::cuda
