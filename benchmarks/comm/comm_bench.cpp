// Times what crosses NVLink: cudaMemcpyPeer, ways of copying from a kernel, the barrier and the all-to-all. One process
// a GPU, all GPUs of the machine.
//
//   comm_bench [peer_copy] [link] [barrier] [small] [large]     (default: all but link)

#include <algorithm>
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>

#include "comm/rank_processes.h"
#include "comm/signal_state.h"
#include "comm/symmetric_window.h"
#include "kernels/cuda/all_to_all/all_to_all.h"
#include "kernels/cuda/barrier/barrier.h"
#include "kernels/cuda/error.h"
#include "link_copies.h"
#include "measure.h"
#include "peer_copy.h"

namespace deeptitan {
namespace {

constexpr int64_t kTimeoutNs = 10'000'000'000;

/// The slowest rank's timing, on every rank.
Timing slowest(RankBoard& board, int rank, const Timing& mine) {
  board.wait_for_all();
  board.numbers[3 * rank] = mine.median;
  board.numbers[3 * rank + 1] = mine.least;
  board.numbers[3 * rank + 2] = mine.greatest;
  board.wait_for_all();
  Timing worst{0, 0, 0};
  for (int r = 0; r < board.n_ranks; ++r) {
    worst.median = std::max(worst.median, board.numbers[3 * r]);
    worst.least = std::max(worst.least, board.numbers[3 * r + 1]);
    worst.greatest = std::max(worst.greatest, board.numbers[3 * r + 2]);
  }
  return worst;
}

/// `count` launches in one CUDA graph.
class Replay {
 public:
  template <typename Launch>
  Replay(cudaStream_t stream, int count, Launch launch) : stream_(stream) {
    cudaGraph_t graph = nullptr;
    DT_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < count; ++i) launch();
    DT_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    DT_CUDA_CHECK(cudaGraphInstantiate(&executable_, graph, 0));
    DT_CUDA_CHECK(cudaGraphDestroy(graph));
  }
  ~Replay() { (void)cudaGraphExecDestroy(executable_); }
  void operator()() { DT_CUDA_CHECK(cudaGraphLaunch(executable_, stream_)); }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
};

/// Every rank copies from (or to) its neighbour at the same time.
void bench_link(int rank, RankBoard& board) {
  constexpr int64_t kBytes = 128ll << 20;
  const NcclHandle communicator(board.id, board.n_ranks, rank);
  const SymmetricWindow window(communicator, 2 * kBytes);
  cudaStream_t stream = nullptr;
  DT_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  fill_hash(reinterpret_cast<uint32_t*>(window.data()), kBytes / 4, static_cast<uint32_t>(rank), stream);
  char* here = window.data();
  char* peer = window.peers().base[(rank + 1) % board.n_ranks];
  const LinkCopyWay* ways = nullptr;
  const int n_ways = link_copy_ways(&ways);
  for (const bool push : {false, true}) {
    for (int w = 0; w < n_ways; ++w) {
      char* to = (push ? peer : here) + kBytes;
      const char* from = push ? here : peer;
      const Timing t = slowest(board, rank,
                               measure(
                                   stream, 7, 3, [&] { board.wait_for_all(); },
                                   [&] {
                                     for (int i = 0; i < 3; ++i)
                                       ways[w].launch(to, from, kBytes, ways[w].blocks, stream);
                                   }));
      if (rank == 0) {
        printf("link %s %-30s x %3d blocks  %9.2f us [%9.2f %9.2f]  %6.1f GB/s each way\n", push ? "push" : "pull",
               ways[w].name, ways[w].blocks, t.median, t.least, t.greatest, kBytes / t.median * 1e-3);
      }
    }
  }
  board.wait_for_all();
  DT_CUDA_CHECK(cudaStreamDestroy(stream));
}

void bench_barrier(int rank, RankBoard& board) {
  constexpr int kBarriers = 200;
  const NcclHandle communicator(board.id, board.n_ranks, rank);
  const SymmetricWindow window(communicator, 1 << 20);
  const SignalState state;
  cudaStream_t stream = nullptr;
  DT_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const cuda::BarrierArguments arguments{window.peers(), 0, state.barrier_epoch(), state.error(), kTimeoutNs};
  for (const auto order : {cuda::BarrierOrder::kRelaxed, cuda::BarrierOrder::kAcquireRelease}) {
    Replay replay(stream, kBarriers, [&] { cuda::barrier_ranks(arguments, order, stream); });
    const Timing t = slowest(board, rank,
                             measure(
                                 stream, 20, kBarriers, [&] { board.wait_for_all(); }, [&] { replay(); }));
    if (rank == 0) {
      printf("barrier %-15s                      %9.2f us [%9.2f %9.2f]\n",
             order == cuda::BarrierOrder::kRelaxed ? "relaxed" : "acquire-release", t.median, t.least, t.greatest);
    }
  }
  state.check(kTimeoutNs, stream);
  board.wait_for_all();
  DT_CUDA_CHECK(cudaStreamDestroy(stream));
}

struct ExchangeShape {
  int64_t bytes;  // that a rank sends
  int64_t row_bytes;
  bool all_to_peer;  // all rows cross the link; else they are spread evenly over all ranks, itself included
};

struct ExchangeWay {
  const char* name;
  cuda::MoveDirection direction;
  cuda::SourceReuse reuse;
  int64_t mailbox_bytes;
};
constexpr ExchangeWay kExchangeWays[] = {
    {"mailbox", cuda::MoveDirection::kPush, cuda::SourceReuse::kAfterExchange, 1 << 20},
    {"push", cuda::MoveDirection::kPush, cuda::SourceReuse::kAfterExchange, 0},
    {"pull", cuda::MoveDirection::kPull, cuda::SourceReuse::kAfterExchange, 0},
    {"pull, no release", cuda::MoveDirection::kPull, cuda::SourceReuse::kAfterNextExchange, 0},
};

/// One rank's end of a repeated exchange.
class Exchange {
 public:
  Exchange(int rank, RankBoard& board, const NcclHandle& communicator, const ExchangeShape& shape, int64_t mailbox)
      : n_ranks_(board.n_ranks) {
    const int64_t rows = shape.bytes / shape.row_bytes;
    std::vector<int32_t> splits(static_cast<size_t>(n_ranks_), 0);
    if (shape.all_to_peer) {
      splits[static_cast<size_t>((rank + 1) % n_ranks_)] = static_cast<int32_t>(rows);
      link_bytes_ = rows * shape.row_bytes;
    } else {
      for (int32_t& split : splits) split = static_cast<int32_t>(rows / n_ranks_);
      link_bytes_ = rows / n_ranks_ * (n_ranks_ - 1) * shape.row_bytes;
    }
    const cuda::AllToAllPad pad{0, 1, mailbox};
    const int64_t rows_begin = (all_to_all_pad_bytes(pad, n_ranks_) + 4095) / 4096 * 4096;
    window_ =
        std::make_unique<SymmetricWindow>(communicator, static_cast<size_t>(rows_begin + 2 * rows * shape.row_bytes));
    DT_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    DT_CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&splits_), 2 * splits.size() * 4));
    DT_CUDA_CHECK(cudaMemcpy(splits_, splits.data(), splits.size() * 4, cudaMemcpyHostToDevice));
    fill_hash(reinterpret_cast<uint32_t*>(window_->data() + rows_begin), rows * shape.row_bytes / 4,
              static_cast<uint32_t>(rank), stream_);
    arguments_.window = window_->peers();
    arguments_.pad = pad;
    arguments_.payloads[0] = {rows_begin, window_->data() + rows_begin + rows * shape.row_bytes, shape.row_bytes};
    arguments_.n_payloads = 1;
    arguments_.n_groups = 1;
    arguments_.split_type = cuda::SplitType::kInt32;
    arguments_.splits = splits_;
    arguments_.output_splits = splits_ + n_ranks_;
    arguments_.capacity_rows = rows;
    arguments_.status = state_.status();
    arguments_.state = state_.all_to_all();
    arguments_.error = state_.error();
    arguments_.timeout_ns = kTimeoutNs;
  }
  ~Exchange() {
    (void)cudaFree(splits_);
    (void)cudaStreamDestroy(stream_);
  }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  void launch(int max_blocks, const ExchangeWay& way) {
    arguments_.max_blocks = max_blocks;
    arguments_.direction = way.direction;
    arguments_.source_reuse = way.reuse;
    cuda::all_to_all_v(arguments_, stream_);
  }
  cudaStream_t stream() const { return stream_; }
  int64_t link_bytes() const { return link_bytes_; }
  void check() const { state_.check(kTimeoutNs, stream_); }

 private:
  int n_ranks_;
  int64_t link_bytes_;
  std::unique_ptr<SymmetricWindow> window_;
  SignalState state_;
  cudaStream_t stream_ = nullptr;
  int32_t* splits_ = nullptr;
  cuda::AllToAllArguments arguments_{};
};

void bench_exchange(int rank, RankBoard& board, bool large) {
  const NcclHandle communicator(board.id, board.n_ranks, rank);
  constexpr int64_t kWideRow = 14336;  // 7168 bf16
  std::vector<ExchangeShape> shapes;
  for (const bool all_to_peer : {false, true}) {
    if (large) {
      for (const int64_t rows : {9362, 1170, 146}) shapes.push_back({rows * kWideRow, kWideRow, all_to_peer});
    } else {
      for (const int64_t bytes : {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20}) {
        shapes.push_back({bytes, 1024, all_to_peer});
      }
    }
  }
  const std::vector<int> block_counts = large ? std::vector<int>{0, 8, 16, 32, 64, 132} : std::vector<int>{0};
  for (const ExchangeShape& shape : shapes) {
    for (const ExchangeWay& way : kExchangeWays) {
      if (large && way.mailbox_bytes > 0) continue;
      Exchange exchange(rank, board, communicator, shape, way.mailbox_bytes);
      for (const int blocks : block_counts) {
        const int per_replay = large ? 5 : 100;
        Replay replay(exchange.stream(), per_replay, [&] { exchange.launch(blocks, way); });
        const Timing t =
            slowest(board, rank,
                    measure(
                        exchange.stream(), 15, per_replay, [&] { board.wait_for_all(); }, [&] { replay(); }));
        if (rank != 0) continue;
        printf("all-to-all %9lld B a rank, %-11s  %-16s %3d blocks  %9.2f us [%9.2f %9.2f]  %6.1f GB/s over the link\n",
               static_cast<long long>(shape.bytes), shape.all_to_peer ? "all to peer" : "even", way.name, blocks,
               t.median, t.least, t.greatest, static_cast<double>(exchange.link_bytes()) / t.median * 1e-3);
      }
      exchange.check();
      board.wait_for_all();
    }
  }
}

int run(const std::set<std::string>& wanted) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const int n_ranks = count_devices_in_child();
  if (n_ranks < 2) {
    fprintf(stderr, "comm_bench needs two GPUs, found %d\n", n_ranks);
    return 1;
  }
  const auto section = [&](const char* name, int processes, const std::function<void(int, RankBoard&)>& body) {
    if (wanted.count(name) == 0) return true;
    const std::string failure = run_rank_processes(processes, body);
    if (!failure.empty()) fprintf(stderr, "%s: %s\n", name, failure.c_str());
    return failure.empty();
  };
  bool ok = section("peer_copy", 1, [](int, RankBoard&) { bench_peer_copy(); });
  ok = section("link", n_ranks, bench_link) && ok;
  ok = section("barrier", n_ranks, bench_barrier) && ok;
  ok = section("small", n_ranks, [](int rank, RankBoard& board) { bench_exchange(rank, board, false); }) && ok;
  ok = section("large", n_ranks, [](int rank, RankBoard& board) { bench_exchange(rank, board, true); }) && ok;
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace deeptitan

int main(int argc, char** argv) {
  std::set<std::string> wanted(argv + 1, argv + argc);
  if (wanted.empty()) wanted = {"peer_copy", "barrier", "small", "large"};
  return deeptitan::run(wanted);
}
