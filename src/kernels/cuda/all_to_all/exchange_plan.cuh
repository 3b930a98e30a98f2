#pragma once

#include "kernels/cuda/all_to_all/all_to_all.h"
#include "kernels/cuda/all_to_all/pad_layout.h"
#include "kernels/cuda/barrier/signal.cuh"

namespace deeptitan::cuda {

/// What a block knows about one exchange, in shared memory.
struct ExchangePlan {
  AllToAllArguments arguments;  // kernel parameters are slow to reach at first: all threads fetch them at once
  int32_t rows[kMaxPeerRanks][kMaxPeerRanks];  // rows[p][q]: rows that p sends q
  int32_t capacity[kMaxPeerRanks];             // rows that each rank can receive
  uint32_t blocks[kMaxPeerRanks];              // with which each rank's launch runs
  int64_t own_first[kMaxPeerRanks];            // first row for each destination in this rank's memory
  int64_t far_first[kMaxPeerRanks];            // pull: first row for this rank in each source's memory;
                                               // push: first row of this rank in each destination's outputs
  int64_t output_first[kMaxPeerRanks];         // first row of each source in this rank's outputs
  int64_t needed[kMaxPeerRanks];               // rows that each rank is to receive
  uint32_t epoch;
  uint32_t flags;  // of ExchangeFlag
  int32_t is_closing_block;
};

/// What the splits amount to for this rank.
enum ExchangeFlag : uint32_t {
  kMoves = 1,          // there are rows to move other than by mailbox, the rank's own included
  kMovesOverLink = 2,  // and some of them between ranks, by this rank or a peer
  kOverflows = 4,      // some rank has not room for its rows
};

/// One thread's view of an exchange.
struct Exchange {
  const AllToAllArguments& arguments;
  ExchangePlan& plan;
  PadLayout layout;
  int message_rows;  // most rows from one rank to another that go through the mailbox; both ends compute the same
  int block;
  int n_blocks;
  bool expects_large;  // rows will be moved by or for peers, most likely: fence and acquire before that is certain

  /// `given` are the kernel's parameters; begin_exchange copies them into the plan.
  __device__ Exchange(const AllToAllArguments& given, ExchangePlan& p, int block_index, int block_count, bool large)
      : arguments(p.arguments),
        plan(p),
        layout(given.pad, given.window.n_ranks),
        block(block_index),
        n_blocks(block_count),
        expects_large(large) {
    // The second payload of a message begins at an even word.
    const bool two = given.n_payloads == 2;
    const auto row_words =
        static_cast<int32_t>((given.payloads[0].row_bytes + (two ? given.payloads[1].row_bytes : 0)) / 4);
    message_rows = (static_cast<int32_t>(layout.mailbox_words) - (two ? 1 : 0)) / row_words;
  }

  __device__ int rank() const { return arguments.window.rank; }
  __device__ int n_ranks() const { return layout.n_ranks; }
  __device__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ int n_threads() const { return static_cast<int>(blockDim.x); }
  __device__ int warp() const { return thread() / 32; }
  __device__ int lane() const { return thread() % 32; }
  __device__ int n_warps() const { return n_threads() / 32; }
  /// The first of the peers that a warp announces splits to: not the warps that add them up, where there are enough.
  __device__ int first_announced() const {
    const int shifted = warp() + n_warps() / 2;
    return shifted < n_warps() ? shifted : shifted - n_warps();
  }
  /// Words of splits that one rank tells another: its rows for every rank, its capacity, its blocks, and the groups if
  /// there are any.
  __device__ int announced_words() const {
    return PadLayout::first_group_word(n_ranks()) + (arguments.n_groups > 1 ? arguments.n_groups : 0);
  }
  __device__ WaitContext context() const { return {arguments.error, arguments.timeout_ns, rank(), plan.epoch}; }

  /// The pad of rank `owner`, at `offset` of its layout.
  template <typename T>
  __device__ T* pad(int owner, int64_t offset) const {
    return reinterpret_cast<T*>(arguments.window.base[owner] + arguments.pad.offset + offset);
  }
  __device__ static int64_t split(const AllToAllArguments& a, int index) {
    return a.split_type == SplitType::kInt64 ? static_cast<const int64_t*>(a.splits)[index]
                                             : static_cast<const int32_t*>(a.splits)[index];
  }
  __device__ void set_output_split(int index, int64_t value) const {
    if (arguments.split_type == SplitType::kInt64) {
      static_cast<int64_t*>(arguments.output_splits)[index] = value;
    } else {
      static_cast<int32_t*>(arguments.output_splits)[index] = static_cast<int32_t>(value);
    }
  }

  __device__ bool is_message(int64_t rows) const { return rows <= message_rows; }
  /// Four-byte words of `rows` rows in payload k of a message, and where payload k begins in it.
  __device__ int message_words(int k, int rows) const {
    return rows * static_cast<int32_t>(arguments.payloads[k].row_bytes / 4);
  }
  __device__ int message_start(int k, int rows) const { return k == 0 ? 0 : (message_words(0, rows) + 1) / 2 * 2; }

  __device__ bool pushes() const { return arguments.direction == MoveDirection::kPush; }
  /// Rows that this rank moves between itself and rank p, and rows that rank p moves.
  __device__ int32_t rows_to_move(int p) const { return pushes() ? plan.rows[rank()][p] : plan.rows[p][rank()]; }
  __device__ int32_t rows_moved_by(int p) const { return pushes() ? plan.rows[p][rank()] : plan.rows[rank()][p]; }
};

}  // namespace deeptitan::cuda
