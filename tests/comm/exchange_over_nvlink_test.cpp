#include <memory>
#include <vector>

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "comm/rank_processes.h"
#include "comm/signal_state.h"
#include "comm/symmetric_window.h"
#include "core/error.h"
#include "kernels/cuda/all_to_all/all_to_all.h"
#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/exchange_case.h"

// The all-to-all between real GPUs, one process each. Every rank makes the whole case from its seed and so knows what
// it must receive.

namespace deeptitan {
namespace {

using cuda::AllToAllArguments;
using cuda::DeviceBuffer;
using cuda::ExchangeCase;
using cuda::MoveDirection;
using cuda::SourceReuse;

#define DT_SKIP_WITHOUT_TWO_GPUS()                                                    \
  do {                                                                                \
    const int devices_found = count_devices_in_child();                               \
    if (devices_found < 2) GTEST_SKIP() << "needs two GPUs, found " << devices_found; \
  } while (false)

/// One rank's end of exchanges with at most max_rows rows sent and received.
class Endpoint {
 public:
  Endpoint(const NcclHandle& communicator, int n_groups, int64_t mailbox_bytes, std::vector<int64_t> row_bytes,
           int64_t max_rows)
      : rank_(communicator.rank()),
        splits_(static_cast<size_t>(communicator.n_ranks() * n_groups)),
        output_splits_(static_cast<size_t>(communicator.n_ranks() * n_groups)) {
    const cuda::AllToAllPad pad{0, n_groups, mailbox_bytes};
    int64_t end = (all_to_all_pad_bytes(pad, communicator.n_ranks()) + 127) / 128 * 128;
    arguments_.n_payloads = static_cast<int32_t>(row_bytes.size());
    std::vector<int64_t> output_offsets;
    for (size_t k = 0; k < row_bytes.size(); ++k) {
      arguments_.payloads[k] = {end, nullptr, row_bytes[k]};
      end = (end + max_rows * row_bytes[k] + 127) / 128 * 128;
      output_offsets.push_back(end);
      end = (end + max_rows * row_bytes[k] + 127) / 128 * 128;
    }
    window_ = std::make_unique<SymmetricWindow>(communicator, static_cast<size_t>(end));
    for (size_t k = 0; k < row_bytes.size(); ++k) arguments_.payloads[k].output = window_->data() + output_offsets[k];
    DT_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    arguments_.window = window_->peers();
    arguments_.pad = pad;
    arguments_.n_groups = n_groups;
    arguments_.split_type = cuda::SplitType::kInt64;
    arguments_.splits = splits_.get();
    arguments_.output_splits = output_splits_.get();
    arguments_.capacity_rows = max_rows;
    arguments_.status = state_.status();
    arguments_.state = state_.all_to_all();
    arguments_.error = state_.error();
    arguments_.timeout_ns = 10'000'000'000;
  }
  ~Endpoint() { (void)cudaStreamDestroy(stream_); }

  AllToAllArguments& arguments() { return arguments_; }
  cudaStream_t stream() const { return stream_; }
  const SignalState& state() const { return state_; }

  void upload(const ExchangeCase& c) {
    DT_CUDA_CHECK(cudaMemcpyAsync(splits_.get(), c.splits[rank_].data(), c.splits[rank_].size() * 8,
                                  cudaMemcpyHostToDevice, stream_));
    for (int k = 0; k < arguments_.n_payloads; ++k) {
      const auto& rows = c.rows[rank_][k];
      DT_CUDA_CHECK(cudaMemcpyAsync(window_->data() + arguments_.payloads[k].input_offset, rows.data(), rows.size(),
                                    cudaMemcpyHostToDevice, stream_));
    }
  }
  void exchange() { cuda::all_to_all_v(arguments_, stream_); }
  void expect(const ExchangeCase& c) {
    state_.check(arguments_.timeout_ns, stream_);
    const std::vector<int64_t> splits = output_splits_.download();
    DT_CHECK(splits == c.output_splits[rank_], "rank {}: wrong output splits", rank_);
    for (int k = 0; k < arguments_.n_payloads; ++k) {
      std::vector<uint8_t> output(c.outputs[rank_][k].size());
      DT_CUDA_CHECK(cudaMemcpy(output.data(), arguments_.payloads[k].output, output.size(), cudaMemcpyDeviceToHost));
      DT_CHECK(output == c.outputs[rank_][k], "rank {}: wrong rows in payload {}", rank_, k);
    }
  }

 private:
  int rank_;
  std::unique_ptr<SymmetricWindow> window_;
  SignalState state_;
  DeviceBuffer<int64_t> splits_;
  DeviceBuffer<int64_t> output_splits_;
  AllToAllArguments arguments_{};
  cudaStream_t stream_ = nullptr;
};

TEST(AllToAllOverNvlink, EqualsCpuTwinInEveryWay) {
  DT_SKIP_WITHOUT_TWO_GPUS();
  const int n_ranks = count_devices_in_child();
  const auto body = [](int rank, RankBoard& board) {
    const NcclHandle communicator(board.id, board.n_ranks, rank);
    for (const int64_t mailbox_bytes : {0, 4096, 1 << 18}) {
      for (const SourceReuse reuse : {SourceReuse::kAfterExchange, SourceReuse::kAfterNextExchange}) {
        Endpoint end(communicator, 3, mailbox_bytes, {2048, 64}, 2000);
        end.arguments().source_reuse = reuse;
        for (uint32_t i = 0; i < 30; ++i) {
          const ExchangeCase c =
              cuda::make_ragged_case(board.n_ranks, 3, {2048, 64}, i % 3 == 0 ? 2 : 2000 / (3 * board.n_ranks), i);
          end.arguments().max_blocks = static_cast<int32_t>(i % 5);
          end.arguments().direction = i % 2 == 0 ? MoveDirection::kPush : MoveDirection::kPull;
          end.upload(c);
          end.exchange();
          end.expect(c);
          if (reuse == SourceReuse::kAfterNextExchange) board.wait_for_all();  // there is one send buffer here
        }
        board.wait_for_all();
      }
    }
  };
  EXPECT_EQ(run_rank_processes(n_ranks, body), "");
}

TEST(AllToAllOverNvlink, BackwardRestoresTheRows) {
  DT_SKIP_WITHOUT_TWO_GPUS();
  const int n_ranks = count_devices_in_child();
  const auto body = [](int rank, RankBoard& board) {
    const ExchangeCase forward = cuda::make_ragged_case(board.n_ranks, 4, {1024}, 100, 5);
    ExchangeCase backward = forward;
    backward.splits = forward.output_splits;
    backward.output_splits = forward.splits;
    backward.rows = forward.outputs;
    backward.outputs = forward.rows;
    const NcclHandle communicator(board.id, board.n_ranks, rank);
    Endpoint end(communicator, 4, 8192, {1024}, std::max(forward.most_sent(), forward.most_received()));
    end.upload(forward);
    end.exchange();
    end.expect(forward);
    end.upload(backward);
    end.exchange();
    end.expect(backward);
    board.wait_for_all();
  };
  EXPECT_EQ(run_rank_processes(n_ranks, body), "");
}

TEST(AllToAllOverNvlink, ReplayedGraphExchangesWhatLiesInTheBuffers) {
  DT_SKIP_WITHOUT_TWO_GPUS();
  const int n_ranks = count_devices_in_child();
  const auto body = [](int rank, RankBoard& board) {
    const NcclHandle communicator(board.id, board.n_ranks, rank);
    Endpoint end(communicator, 1, 4096, {512}, 4000);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    DT_CUDA_CHECK(cudaStreamBeginCapture(end.stream(), cudaStreamCaptureModeGlobal));
    for (int i = 0; i < 3; ++i) {
      end.arguments().direction = i == 1 ? MoveDirection::kPush : MoveDirection::kPull;
      end.exchange();
    }
    DT_CUDA_CHECK(cudaStreamEndCapture(end.stream(), &graph));
    DT_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
    for (uint32_t i = 0; i < 20; ++i) {
      const ExchangeCase c =
          cuda::make_ragged_case(board.n_ranks, 1, {512}, i % 2 == 0 ? 5 : 2000 / board.n_ranks, 50 + i);
      end.upload(c);
      DT_CUDA_CHECK(cudaGraphLaunch(executable, end.stream()));
      end.expect(c);
    }
    board.wait_for_all();
    DT_CUDA_CHECK(cudaGraphExecDestroy(executable));
    DT_CUDA_CHECK(cudaGraphDestroy(graph));
  };
  EXPECT_EQ(run_rank_processes(n_ranks, body), "");
}

TEST(AllToAllOverNvlink, OverflowOfOneRankIsSaidOnAll) {
  DT_SKIP_WITHOUT_TWO_GPUS();
  const auto body = [](int rank, RankBoard& board) {
    const ExchangeCase c = cuda::make_case({{3, 50}, {4, 60}}, 1, {256}, 9);
    const NcclHandle communicator(board.id, board.n_ranks, rank);
    Endpoint end(communicator, 1, 1024, {256}, 110);
    if (rank == 1) end.arguments().capacity_rows = 109;
    end.upload(c);
    end.exchange();
    const cuda::AllToAllStatus status = end.state().read_status(end.stream());
    end.state().check(end.arguments().timeout_ns, end.stream());
    DT_CHECK(status.overflowed == 1 && status.overflow_rank == 1 && status.rows_needed == 110 &&
                 status.rows_received == (rank == 0 ? 7 : 110),
             "rank {} reads overflowed {}, rank {}, {} rows needed, {} received", rank, status.overflowed,
             status.overflow_rank, status.rows_needed, status.rows_received);
    end.arguments().capacity_rows = 110;
    end.exchange();
    end.expect(c);
    board.wait_for_all();
  };
  EXPECT_EQ(run_rank_processes(2, body), "");
}

TEST(AllToAllOverNvlink, RankThatNeverComesEndsTheWait) {
  DT_SKIP_WITHOUT_TWO_GPUS();
  const auto body = [](int rank, RankBoard& board) {
    const ExchangeCase c = cuda::make_case({{3, 50}, {4, 60}}, 1, {256}, 9);
    const NcclHandle communicator(board.id, board.n_ranks, rank);
    Endpoint end(communicator, 1, 0, {256}, 110);
    end.upload(c);
    if (rank == 1) {
      end.arguments().timeout_ns = 50'000'000;
      end.exchange();
      try {
        end.state().check(end.arguments().timeout_ns, end.stream());
        fail("no error");
      } catch (const Error& error) {
        const std::string expected =
            "rank 1 waited 0.05 s for rank 0 to send its splits of all-to-all 1; see the "
            "log of rank 0 for why it "
            "stopped, or raise the time-out if it was only slow";
        DT_CHECK(error.what() == expected, "the message was: {}", error.what());
      }
    }
    board.wait_for_all();
  };
  EXPECT_EQ(run_rank_processes(2, body), "");
}

}  // namespace
}  // namespace deeptitan
