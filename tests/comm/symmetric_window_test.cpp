#include "comm/symmetric_window.h"

#include <vector>

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "comm/rank_processes.h"
#include "comm/signal_state.h"
#include "core/error.h"
#include "kernels/cuda/barrier/barrier.h"
#include "kernels/cuda/error.h"

namespace deeptitan {
namespace {

#define DT_SKIP_WITHOUT_TWO_GPUS()                                                    \
  do {                                                                                \
    const int devices_found = count_devices_in_child();                               \
    if (devices_found < 2) GTEST_SKIP() << "needs two GPUs, found " << devices_found; \
  } while (false)

TEST(SymmetricWindow, IsZeroAndEveryRankSeesEveryRanksMemory) {
  DT_SKIP_WITHOUT_TWO_GPUS();
  const int n_ranks = count_devices_in_child();
  EXPECT_EQ(
      run_rank_processes(
          n_ranks,
          [](int rank, RankBoard& board) {
            const NcclHandle communicator(board.id, board.n_ranks, rank);
            const SymmetricWindow window(communicator, 3 << 20);
            DT_CHECK(window.peers().rank == rank && window.peers().n_ranks == board.n_ranks, "wrong rank");
            std::vector<int> words(window.bytes() / 4);
            for (int p = 0; p < board.n_ranks; ++p) {
              DT_CUDA_CHECK(cudaMemcpy(words.data(), window.peers().base[p], window.bytes(), cudaMemcpyDeviceToHost));
              for (const int word : words)
                DT_CHECK(word == 0, "rank {} sees {} in rank {}'s new window", rank, word, p);
            }
            board.wait_for_all();
            words.assign(words.size(), 1000 + rank);
            DT_CUDA_CHECK(cudaMemcpy(window.data(), words.data(), window.bytes(), cudaMemcpyHostToDevice));
            board.wait_for_all();
            for (int p = 0; p < board.n_ranks; ++p) {
              int last = 0;
              DT_CUDA_CHECK(cudaMemcpy(&last, window.peers().base[p] + window.bytes() - 4, 4, cudaMemcpyDeviceToHost));
              DT_CHECK(last == 1000 + p, "rank {} sees {} in rank {}'s window", rank, last, p);
            }
            board.wait_for_all();
          }),
      "");
}

TEST(SymmetricWindow, SeveralLiveSideBySideAndOneRankNeedsNoPeer) {
  DT_SKIP_WITHOUT_TWO_GPUS();
  const auto body = [](int rank, RankBoard& board) {
    const NcclHandle communicator(board.id, 1, rank);
    const SymmetricWindow first(communicator, 100);
    const SymmetricWindow second(communicator, 1 << 20);
    DT_CHECK(first.data() != second.data(), "two windows share memory");
    int value = 7;
    DT_CUDA_CHECK(cudaMemcpy(second.peers().base[0], &value, 4, cudaMemcpyHostToDevice));
    DT_CUDA_CHECK(cudaMemcpy(&value, second.data(), 4, cudaMemcpyDeviceToHost));
    DT_CHECK(value == 7, "the window and its peer pointer differ");
  };
  EXPECT_EQ(run_rank_processes(1, body), "");
}

TEST(SymmetricWindow, NoBytesAreAnError) {
  DT_SKIP_WITHOUT_TWO_GPUS();
  const auto body = [](int rank, RankBoard& board) {
    const NcclHandle communicator(board.id, 1, rank);
    const SymmetricWindow window(communicator, 0);
  };
  EXPECT_EQ(run_rank_processes(1, body), "rank 0 of 1: symmetric window: 0 bytes asked for");
}

TEST(BarrierOverNvlink, WritesBeforeItAreSeenAfterIt) {
  DT_SKIP_WITHOUT_TWO_GPUS();
  const int n_ranks = count_devices_in_child();
  const auto body = [](int rank, RankBoard& board) {
    const NcclHandle communicator(board.id, board.n_ranks, rank);
    const SymmetricWindow window(communicator, 1 << 20);
    const SignalState state;
    const int64_t pad = cuda::barrier_pad_bytes(board.n_ranks);
    const cuda::BarrierArguments barrier{window.peers(), 0, state.barrier_epoch(), state.error(), 10'000'000'000};
    // In each round a rank stamps its buffer, passes a barrier and copies the stamps of
    // all the others.
    constexpr int kRounds = 200;
    constexpr size_t kBytes = 64 << 10;
    std::vector<unsigned char> seen(kBytes);
    cudaStream_t stream = nullptr;
    DT_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (int round = 1; round <= kRounds; ++round) {
      DT_CUDA_CHECK(cudaMemsetAsync(window.data() + pad, (round + 7 * rank) & 0xff, kBytes, stream));
      cuda::barrier_ranks(barrier, cuda::BarrierOrder::kAcquireRelease, stream);
      for (int p = 0; p < board.n_ranks; ++p) {
        DT_CUDA_CHECK(
            cudaMemcpyAsync(seen.data(), window.peers().base[p] + pad, kBytes, cudaMemcpyDeviceToHost, stream));
        DT_CUDA_CHECK(cudaStreamSynchronize(stream));
        for (const unsigned char byte : seen) {
          DT_CHECK(byte == ((round + 7 * p) & 0xff), "round {}: rank {} sees {} of rank {}", round, rank, byte, p);
        }
      }
      cuda::barrier_ranks(barrier, cuda::BarrierOrder::kRelaxed, stream);
    }
    state.check(barrier.timeout_ns, stream);
    board.wait_for_all();
    DT_CUDA_CHECK(cudaStreamDestroy(stream));
  };
  EXPECT_EQ(run_rank_processes(n_ranks, body), "");
}

TEST(BarrierOverNvlink, RankThatNeverComesEndsTheWait) {
  DT_SKIP_WITHOUT_TWO_GPUS();
  EXPECT_EQ(
      run_rank_processes(
          2,
          [](int rank, RankBoard& board) {
            const NcclHandle communicator(board.id, 2, rank);
            const SymmetricWindow window(communicator, 1 << 20);
            const SignalState state;
            const cuda::BarrierArguments barrier{window.peers(), 0, state.barrier_epoch(), state.error(), 50'000'000};
            if (rank == 0) {
              cuda::barrier_ranks(barrier, cuda::BarrierOrder::kAcquireRelease, nullptr);
              try {
                state.check(barrier.timeout_ns, nullptr);
                fail("no error");
              } catch (const Error& error) {
                const std::string expected =
                    "rank 0 waited 0.05 s for rank 1 to arrive at barrier 1; see the log of rank 1 for why it stopped, "
                    "or raise "
                    "the time-out if it was only slow";
                DT_CHECK(error.what() == expected, "the message was: {}", error.what());
              }
            }
            board.wait_for_all();
          }),
      "");
}

}  // namespace
}  // namespace deeptitan
