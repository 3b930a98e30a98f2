#pragma once

#include <type_traits>

#include "kernels/cuda/all_to_all/copy_bytes.cuh"
#include "kernels/cuda/all_to_all/exchange_plan.cuh"

namespace deeptitan::cuda {

/// Yields, one after the other, the ranges that one block moves: its share of all pairs that do not go by mailbox, in
/// the order of the payloads and ranks. Shares are equal in cost. A byte over the link costs link_cost_ times a byte
/// of this device's memory, so that own rows are copied by a few blocks while the others keep the link busy: a block
/// alone copies about 40 GB/s either way, and from about 12 blocks on it is the link that limits.
///
/// Example, two ranks, 48 blocks, pulling 90 KiB from each rank, on rank 0: costs are 90 (own) and 4 * 90, so each
/// block takes 9.4: blocks 0 to 8 and a part of block 9 its own 90 KiB, the others about 2.3 KiB (down to 128 bytes)
/// each of the peer's.
class MoveShare {
 public:
  __device__ explicit MoveShare(const Exchange& x) : x_(x), link_cost_(max(1, x.n_blocks / 12)) {
    if (x.n_blocks == 1) return;
    int64_t total = 0;
    for (int k = 0; k < x.arguments.n_payloads; ++k) {
      for (int p = 0; p < x.n_ranks(); ++p) total += pair_bytes(k, p) * cost(p);
    }
    const int64_t share = (total + x.n_blocks - 1) / x.n_blocks;
    begin_ = share * x.block;
    end_ = begin_ + share;
  }

  __device__ bool operator()(CopyRange& range) {
    for (; payload_ < x_.arguments.n_payloads; ++payload_, peer_ = 0) {
      const AllToAllPayload& payload = x_.arguments.payloads[payload_];
      char* const* base = x_.arguments.window.base;
      const int rank = x_.rank();
      while (peer_ < x_.n_ranks()) {
        const int p = peer_++;
        const int64_t bytes = pair_bytes(payload_, p);
        int64_t from = 0;
        int64_t to = bytes;
        if (x_.n_blocks > 1) {
          from = byte_of(begin_ - passed_, bytes, p);
          to = byte_of(end_ - passed_, bytes, p);
          passed_ += bytes * cost(p);
        }
        if (from >= to) continue;
        const int64_t far = x_.plan.far_first[p] * payload.row_bytes + from;
        if (x_.pushes()) {
          range.from = base[rank] + payload.input_offset + x_.plan.own_first[p] * payload.row_bytes + from;
          range.to = base[p] + (static_cast<char*>(payload.output) - base[rank]) + far;
        } else {
          range.from = base[p] + payload.input_offset + far;
          range.to = static_cast<char*>(payload.output) + x_.plan.output_first[p] * payload.row_bytes + from;
        }
        range.bytes = to - from;
        return true;
      }
    }
    return false;
  }

 private:
  __device__ int cost(int p) const { return p == x_.rank() ? 1 : link_cost_; }
  __device__ int64_t pair_bytes(int k, int p) const {
    const int64_t rows = x_.rows_to_move(p);
    return p != x_.rank() && x_.is_message(rows) ? 0 : rows * x_.arguments.payloads[k].row_bytes;
  }
  /// The byte of a pair where a share of the cost ends; neighbouring blocks get the same answer.
  __device__ int64_t byte_of(int64_t cost_passed, int64_t bytes, int p) const {
    if (cost_passed <= 0) return 0;
    return cost_passed >= bytes * cost(p) ? bytes : cost_passed / cost(p) / 128 * 128;
  }

  const Exchange& x_;
  int link_cost_;
  int64_t begin_ = 0;
  int64_t end_ = 0;
  int64_t passed_ = 0;
  int payload_ = 0;
  int peer_ = 0;
};

/// Step 4. With a ring, one thread's bulk copies move what is aligned for them while the other warps move the rest.
template <typename Ring>
__device__ void move_rows(const Exchange& x, char* shared) {
#if __CUDA_ARCH__ >= 900
  if constexpr (!std::is_void_v<Ring>) {
    MoveShare share(x);
    if (x.warp() == 0) {
      if (x.lane() == 0) {
        Ring(shared).copy_all([&](CopyRange& range) {
          while (share(range)) {
            if (is_aligned_to_16(range)) return true;
          }
          return false;
        });
      }
    } else {
      CopyRange range;
      while (share(range)) {
        if (!is_aligned_to_16(range)) copy_range(range, x.thread() - 32, x.n_threads() - 32);
      }
    }
    return;
  }
#endif
  MoveShare share(x);
  CopyRange range;
  while (share(range)) copy_range(range, x.thread(), x.n_threads());
}

}  // namespace deeptitan::cuda
