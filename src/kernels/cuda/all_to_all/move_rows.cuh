#pragma once

#include <type_traits>

#include "kernels/cuda/all_to_all/copy_bytes.cuh"
#include "kernels/cuda/all_to_all/exchange_plan.cuh"

namespace deeptitan::cuda {

/// Which payloads a MoveShare yields. Rows of a multiple of 16 bytes can be copied in bulk.
enum class MovedPayloads { kAll, kBulk, kOther };

/// A walk over the parts that one block moves: its share of all pairs that do not go by mailbox, in the order of the
/// payloads and ranks. Shares are equal in cost. A byte over the link costs link_cost_ times a byte of this device's
/// memory, so that own rows are copied by a few blocks while the others keep the link busy: a block alone copies about
/// 40 GB/s either way, and from about 12 blocks on it is the link that limits.
///
/// When rows are pushed, next() and source() need no more than this rank's own splits; target() needs the plan whole.
///
/// Example, two ranks, 48 blocks, pulling 90 KiB from each rank, on rank 0: costs are 90 (own) and 4 * 90, so each
/// block takes 9.4: blocks 0 to 8 and a part of block 9 its own 90 KiB, the others about 2.3 KiB (down to 128 bytes)
/// each of the peer's.
class MoveShare {
 public:
  /// Bytes first to first + bytes - 1 of the rows that go between this rank and `peer`.
  struct Part {
    int payload;
    int peer;
    int64_t first;
    int64_t bytes;
  };

  MoveShare() = default;
  __device__ MoveShare(const Exchange& x, MovedPayloads wanted) : x_(&x), wanted_(wanted) {
    if (x.n_blocks == 1) return;
    link_cost_ = 31 - __clz(max(1, x.n_blocks / 12));
    int64_t total = 0;
    for (int k = 0; k < x.arguments.n_payloads; ++k) {
#pragma unroll 1
      for (int p = 0; p < x.n_ranks(); ++p) total += pair_bytes(k, p) << cost(p);
    }
    const int64_t share = (total + x.n_blocks - 1) / x.n_blocks;
    begin_ = share * x.block;
    end_ = begin_ + share;
  }

  __device__ bool next(Part& part) {
    for (; payload_ < x_->arguments.n_payloads; ++payload_, peer_ = 0) {
      const bool in_bulk = x_->arguments.payloads[payload_].row_bytes % 16 == 0;
      while (peer_ < x_->n_ranks()) {
        const int p = peer_++;
        const int64_t bytes = pair_bytes(payload_, p);
        int64_t from = 0;
        int64_t to = bytes;
        if (x_->n_blocks > 1) {
          from = byte_of(begin_ - passed_, bytes, p);
          to = byte_of(end_ - passed_, bytes, p);
          passed_ += bytes << cost(p);
        }
        if (from >= to || wanted_ == (in_bulk ? MovedPayloads::kOther : MovedPayloads::kBulk)) continue;
        part = {payload_, p, from, to - from};
        return true;
      }
    }
    return false;
  }

  __device__ const char* source(const Part& part) const {
    const AllToAllPayload& payload = x_->arguments.payloads[part.payload];
    const int owner = x_->pushes() ? x_->rank() : part.peer;
    const int64_t first_row = x_->pushes() ? x_->plan.own_first[part.peer] : x_->plan.far_first[part.peer];
    return x_->arguments.window.base[owner] + payload.input_offset + first_row * payload.row_bytes + part.first;
  }

  __device__ char* target(const Part& part) const {
    const AllToAllPayload& payload = x_->arguments.payloads[part.payload];
    char* const* base = x_->arguments.window.base;
    char* output = static_cast<char*>(payload.output);
    if (!x_->pushes()) return output + x_->plan.output_first[part.peer] * payload.row_bytes + part.first;
    return base[part.peer] + (output - base[x_->rank()]) + x_->plan.far_first[part.peer] * payload.row_bytes +
           part.first;
  }

 private:
  /// The logarithm of a byte's cost.
  __device__ int cost(int p) const {
    return p == x_->rank() ? 0 : link_cost_;
  }
  __device__ int64_t pair_bytes(int k, int p) const {
    const int64_t rows = x_->rows_to_move(p);
    return p != x_->rank() && x_->is_message(rows) ? 0 : rows * x_->arguments.payloads[k].row_bytes;
  }
  /// The byte of a pair where a share of the cost ends; neighbouring blocks get the same answer.
  __device__ int64_t byte_of(int64_t cost_passed, int64_t bytes, int p) const {
    if (cost_passed <= 0) return 0;
    return cost_passed >= bytes << cost(p) ? bytes : cost_passed >> cost(p) & ~int64_t{127};
  }

  const Exchange* x_ = nullptr;
  MovedPayloads wanted_ = MovedPayloads::kAll;
  int link_cost_ = 0;
  int64_t begin_ = 0;  // cost before this share
  int64_t end_ = 0;    // and up to its end
  int64_t passed_ = 0;
  int payload_ = 0;
  int peer_ = 0;
};

/// Moves the wanted payloads of this block's share by threads `thread` of `n_threads`.
__device__ inline void move_by_threads(const Exchange& x, MovedPayloads wanted, int thread, int n_threads) {
  MoveShare share(x, wanted);
  MoveShare::Part part;
  while (share.next(part)) copy_range({share.target(part), share.source(part), part.bytes}, thread, n_threads);
}

/// Step 4 by loads and stores of all threads.
class ThreadMover {
 public:
  __device__ ThreadMover(const Exchange& x, char*) : x_(x) {}
  __device__ void start() {}
  __device__ void finish(bool moves) {
    if (moves) move_by_threads(x_, MovedPayloads::kAll, x_.thread(), x_.n_threads());
  }

 private:
  const Exchange& x_;
};

#if __CUDA_ARCH__ >= 900
/// Step 4 by bulk copies, which one thread of the last warp drives; the other warps move what cannot be copied in bulk.
template <typename Ring>
class BulkMover {
 public:
  __device__ BulkMover(const Exchange& x, char* shared) : x_(x), ring_(shared) {}

  /// Before the peers' splits are known: what is to be pushed can be loaded already.
  __device__ void start() {
    if (drives() && x_.pushes()) start_ring(kLoadedAhead);
  }
  __device__ void finish(bool moves) {
    if (drives()) {
      if (!moves) return ring_.abandon();
      if (!x_.pushes()) start_ring(Ring::kMostInFlight);
      ring_.finish(loads_, stores_);
    } else if (moves && x_.warp() + 1 < x_.n_warps()) {
      move_by_threads(x_, MovedPayloads::kOther, x_.thread(), x_.n_threads() - 32);
    }
  }

 private:
  /// More would hold up the splits: six chunks of every block take the memory three microseconds.
  static constexpr uint32_t kLoadedAhead = 1;
  __device__ bool drives() const { return x_.thread() == x_.n_threads() - 32; }
  __device__ void start_ring(uint32_t most) {
    loads_ = stores_ = Chunks<MoveShare, Ring::kChunkBytes>(MoveShare(x_, MovedPayloads::kBulk));
    ring_.start(loads_, stores_, most);
  }

  const Exchange& x_;
  Ring ring_;
  Chunks<MoveShare, Ring::kChunkBytes> loads_;
  Chunks<MoveShare, Ring::kChunkBytes> stores_;
};

template <typename Ring>
using RowMover = std::conditional_t<std::is_void_v<Ring>, ThreadMover, BulkMover<Ring>>;
#else
template <typename Ring>
using RowMover = ThreadMover;
#endif

}  // namespace deeptitan::cuda
