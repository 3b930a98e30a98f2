#pragma once

#include <cstddef>

#include "kernels/cuda/all_to_all/exchange_plan.cuh"
#include "kernels/cuda/all_to_all/move_rows.cuh"
#include "kernels/cuda/barrier/signal.cuh"

// The all-to-all's protocol, run by all blocks of a launch. In the order of one block's program:
//
//   1. announce_splits: block 0 writes this rank's rows per destination, its capacity, its number of blocks and the
//      destination's group counts into every peer's pad. Rows to be pushed begin to be loaded.
//   2. send_messages: rows of pairs small enough for the mailbox are written into the peer's pad, a share per block.
//   3. gather_splits: every block waits for all ranks' words and so knows the whole matrix of splits: where its rows
//      begin at the far end and in its own memory, and whether any rank would overflow. All ranks see the same matrix,
//      so they decide alike without another round.
//   4. move_rows: rows of larger pairs, and this rank's own, are pulled out of their owners' memory or pushed into the
//      outputs of their destinations.
//   5. take_messages: mailbox rows for this rank are copied to the outputs.
//   6. finish_exchange: every block tells the peers concerned that it has moved its rows. One block, the last to have
//      started, waits until all blocks of the peers that move rows from or to this rank have said so, and counts the
//      epoch up.
//
// Memory order. Rows and splits were written, and outputs were last used, by earlier kernels of the owner's stream, so
// before every thread of its launch. If a peer may move rows of this rank, each thread of step 1 fences at system scope
// before it stores a word, and in step 3 a thread loads the word as an acquire: a release pattern and an acquire that
// synchronise, and the __syncthreads that ends step 3 carries the order to the other threads of the block;
// so the accesses of step 4 come after. Bulk copies act through the async proxy, hence the proxy fences around
// them. In step 6 each block's accesses precede its __syncthreads and its release addition at system scope; the peer's
// acquire load that sees the sum of all blocks synchronises with each, since an addition continues the release sequence
// of those before it. So pulled rows were read before anything that their owner's later kernels write, and pushed rows
// are there before anything that the receiver's later kernels read. Words of splits and mailbox carry their epoch
// beside the data (pad_layout.h): where only messages are exchanged relaxed accesses are enough and the fences are left
// out. Which it is is known to the sender from its splits, to the receiver from the words themselves: unless the launch
// expects large pairs (Exchange::expects_large) it loads one word of each source a second time as an acquire.
//
// Words of splits and mailbox are never cleared. A rank announces exchange e + 2 only after it has finished e + 1, for
// which it needed every peer's splits of e + 1, which each peer sent after finishing e: so nobody still reads the words
// of exchange e when those of e + 2, which lie in the same place, are written. Nobody is ever more than one exchange
// ahead. The counts of step 6 are cleared by who waited for them: a peer adds to them again only once it has this
// rank's splits of the next exchange.
//
// The epoch may be counted up once every block has read it. Blocks count themselves where they start, and the one that
// completes the count does so at its end: nobody waits for that count.

namespace deeptitan::cuda {

/// Reads parameters, counters and this rank's splits into the plan. False if nothing may be exchanged. All threads call
/// it.
__device__ inline bool begin_exchange(const Exchange& x, const AllToAllArguments& given) {
  ExchangePlan& plan = x.plan;
  const int n_words =
      static_cast<int>((offsetof(AllToAllArguments, window) + offsetof(PeerWindow, base)) / 4) + 2 * x.n_ranks();
#pragma unroll 1
  for (int i = x.thread(); i < n_words; i += x.n_threads()) {
    reinterpret_cast<uint32_t*>(&plan.arguments)[i] = reinterpret_cast<const uint32_t*>(&given)[i];
  }
#if __CUDA_ARCH__ >= 900
  // The launch may have begun before the kernel ahead of it in the stream has ended (launch_all_to_all_v): nothing that
  // it wrote, and nothing that peers can see, may be touched before here.
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  if (x.expects_large && x.block == 0 && x.first_announced() < x.n_ranks()) fence_system();
  bool failed = false;
  if (x.thread() == 0) {
    plan.epoch = next_epoch(given.state->epoch);
    plan.flags = 0;
    failed = load_relaxed_system(given.error) != 0;
  }
  // A warp adds up a destination's groups.
  int invalid = -1;
#pragma unroll 1
  for (int q = x.warp(); q < x.n_ranks(); q += x.n_warps()) {
    int64_t sum = 0;
    bool valid = true;
#pragma unroll 1
    for (int g = x.lane(); g < given.n_groups; g += 32) {
      const int64_t rows = Exchange::split(given, q * given.n_groups + g);
      valid = valid && rows >= 0 && rows <= INT32_MAX;
      sum += rows;
    }
    if (given.n_groups > 1) {
      for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    }
    valid = __all_sync(0xffffffffu, valid) && sum <= INT32_MAX;
    if (!valid) invalid = q;
    if (x.lane() == 0) plan.rows[given.window.rank][q] = static_cast<int32_t>(sum);
  }
  failed = __syncthreads_or(failed || invalid >= 0) != 0;
  // The answer is not needed before the end, so a thread asks whose warp neither announces nor waits for splits, unless
  // there are many ranks.
  if (x.thread() == x.n_threads() / 2 - 32) {
    uint32_t started = 0;
    if (x.n_blocks > 1) {
      asm volatile("atom.add.acq_rel.gpu.u32 %0, [%1], 1;"
                   : "=r"(started)
                   : "l"(&x.arguments.state->blocks_started)
                   : "memory");
    }
    plan.is_closing_block = started + 1 == static_cast<uint32_t>(x.n_blocks);
  }
  if (invalid >= 0 && x.lane() == 0) report_wait_error(x.context(), WaitKind::kInvalidSplits, invalid);
  return !failed;
}

/// Where this rank's rows for each destination begin. All threads call it.
__device__ inline void lay_out_own_rows(const Exchange& x) {
  const int t = x.thread();
  if (t < x.n_ranks()) {
    int64_t first = 0;
#pragma unroll 1
    for (int q = 0; q < t; ++q) first += x.plan.rows[x.rank()][q];
    x.plan.own_first[t] = first;
  }
  __syncthreads();
}

__device__ inline uint64_t tag_word(uint32_t epoch, uint32_t value) {
  return static_cast<uint64_t>(epoch) << 32 | value;
}

/// Whether a peer may load from or store to this rank's memory.
__device__ inline bool is_moved_by_peers(const Exchange& x) {
  bool moved = false;
#pragma unroll 1
  for (int q = x.lane(); q < x.n_ranks(); q += 32) {
    // Nobody can push more than this rank has room for.
    moved = moved || (q != x.rank() ? !x.is_message(x.plan.rows[x.rank()][q])
                                    : x.pushes() && !x.is_message(x.arguments.capacity_rows));
  }
  return __any_sync(0xffffffffu, moved) != 0;
}

/// Step 1, by block 0, a warp a peer.
__device__ inline void announce_splits(const Exchange& x) {
  const AllToAllArguments& a = x.arguments;
  if (x.first_announced() >= x.n_ranks()) return;
  if (!x.expects_large && is_moved_by_peers(x)) fence_system();
  const int first_group = PadLayout::first_group_word(x.n_ranks());
#pragma unroll 1
  for (int peer = x.first_announced(); peer < x.n_ranks(); peer += x.n_warps()) {
    if (peer == x.rank()) continue;
    uint64_t* words = x.pad<uint64_t>(peer, x.layout.split_offset(x.plan.epoch, x.rank()));
#pragma unroll 1
    for (int word = x.lane(); word < x.announced_words(); word += 32) {
      const int64_t value = word < x.n_ranks()        ? x.plan.rows[x.rank()][word]
                            : word == x.n_ranks()     ? a.capacity_rows
                            : word == x.n_ranks() + 1 ? x.n_blocks
                                                      : Exchange::split(a, peer * a.n_groups + word - first_group);
      store_relaxed_system(words + word, tag_word(x.plan.epoch, static_cast<uint32_t>(value)));
    }
  }
}

/// Pairs of words of a message that a thread has under way at once.
inline constexpr int kMessageUnroll = 4;

/// Step 2, for payload k: every thread of the launch takes a share of every message.
__device__ inline void send_messages(const Exchange& x, int k) {
  const AllToAllPayload& payload = x.arguments.payloads[k];
  const uint32_t epoch = x.plan.epoch;
  const char* rows_begin = x.arguments.window.base[x.rank()] + payload.input_offset;
  const int step = x.n_blocks * x.n_threads();
  const int first = x.block * x.n_threads() + x.thread();
#pragma unroll 1
  for (int away = 1; away < x.n_ranks(); ++away) {
    const int peer = x.rank() + away < x.n_ranks() ? x.rank() + away : x.rank() + away - x.n_ranks();
    const int rows = x.plan.rows[x.rank()][peer];
    if (rows == 0 || !x.is_message(rows)) continue;
    const char* from = rows_begin + x.plan.own_first[peer] * payload.row_bytes;
    uint64_t* to = x.pad<uint64_t>(peer, x.layout.mailbox_offset(epoch, x.rank())) + x.message_start(k, rows);
    const int words = x.message_words(k, rows);
    if (payload.row_bytes % 8 == 0) {
#pragma unroll 1
      for (int i = first; i < words / 2; i += kMessageUnroll * step) {
        uint2 pairs[kMessageUnroll];
#pragma unroll
        for (int u = 0; u < kMessageUnroll; ++u) {
          if (i + u * step < words / 2) pairs[u] = reinterpret_cast<const uint2*>(from)[i + u * step];
        }
#pragma unroll
        for (int u = 0; u < kMessageUnroll; ++u) {
          if (i + u * step < words / 2) {
            store_relaxed_system(to + 2 * (i + u * step), tag_word(epoch, pairs[u].x), tag_word(epoch, pairs[u].y));
          }
        }
      }
    } else {
#pragma unroll 1
      for (int i = first; i < words; i += step) {
        store_relaxed_system(to + i, tag_word(epoch, reinterpret_cast<const uint32_t*>(from)[i]));
      }
    }
  }
}

/// Writes into status that some rank would overflow, and clears the output splits. By block 0.
__device__ inline void report_overflow(const Exchange& x) {
  const AllToAllArguments& a = x.arguments;
  const ExchangePlan& plan = x.plan;
#pragma unroll 1
  for (int i = x.thread(); i < x.n_ranks() * a.n_groups; i += x.n_threads()) x.set_output_split(i, 0);
  if (x.thread() != 0) return;
  int worst = -1;
#pragma unroll 1
  for (int q = 0; q < x.n_ranks(); ++q) {
    if (plan.needed[q] > plan.capacity[q] && (worst < 0 || plan.needed[q] > plan.needed[worst])) worst = q;
  }
  a.status->rows_needed = plan.needed[worst];
  a.status->overflow_rank = worst;
  a.status->overflowed = 1;
}

/// Step 3, a warp a source. False if a wait failed, or if some rank would overflow. All threads call it.
__device__ inline bool gather_splits(const Exchange& x) {
  const AllToAllArguments& a = x.arguments;
  ExchangePlan& plan = x.plan;
  const int n_ranks = x.n_ranks();
  const WaitContext context = x.context();
  const int first_group = PadLayout::first_group_word(n_ranks);
  // Only block 0 reads the groups; the others need no more than the totals.
  const int n_words = x.block == 0 ? x.announced_words() : first_group;
  bool failed = false;
#pragma unroll 1
  for (int source = x.warp(); source < n_ranks; source += x.n_warps()) {
    const bool is_own = source == x.rank();
    const uint64_t* words = x.pad<uint64_t>(x.rank(), x.layout.split_offset(context.epoch, source));
#pragma unroll 1
    for (int word = x.lane(); word < n_words; word += 32) {
      int64_t value;
      if (is_own) {
        value = word < n_ranks        ? plan.rows[source][word]
                : word == n_ranks     ? a.capacity_rows
                : word == n_ranks + 1 ? x.n_blocks
                                      : Exchange::split(a, source * a.n_groups + word - first_group);
      } else {
        uint64_t seen = 0;
        failed = failed || !wait_until(context, WaitKind::kSplits, source, [&] {
                   seen = x.expects_large ? load_acquire_system(words + word) : load_relaxed_system(words + word);
                   return static_cast<uint32_t>(seen >> 32) == context.epoch;
                 });
        value = static_cast<int64_t>(seen & 0xffffffffu);
      }
      if (word < n_ranks) {
        if (!is_own) plan.rows[source][word] = static_cast<int32_t>(value);  // others are still reading this rank's own
        if (a.n_groups == 1 && word == x.rank() && x.block == 0) x.set_output_split(source, value);
      } else if (word == n_ranks) {
        plan.capacity[source] = static_cast<int32_t>(value);
      } else if (word == n_ranks + 1) {
        plan.blocks[source] = static_cast<uint32_t>(value);
      } else {
        x.set_output_split(source * a.n_groups + word - first_group, value);
      }
    }
  }
  if (__syncthreads_or(failed) != 0) return false;

  const int t = x.thread();
  if (t < n_ranks) {
    int64_t needed = 0;
    int64_t output_first = 0;
    int64_t far_first = 0;
#pragma unroll 1
    for (int i = 0; i < n_ranks; ++i) {
      needed += plan.rows[i][t];
      if (i < t) output_first += plan.rows[i][x.rank()];
      if (i < x.rank()) far_first += x.pushes() ? plan.rows[i][t] : plan.rows[t][i];
    }
    plan.needed[t] = needed;
    plan.output_first[t] = output_first;
    plan.far_first[t] = far_first;
    uint32_t flags = needed > plan.capacity[t] ? kOverflows : 0;
    if (t == x.rank()) {
      if (plan.rows[t][t] > 0) flags |= kMoves;
      if (x.block == 0) a.status->rows_received = needed;
    } else {
      if (!x.is_message(x.rows_to_move(t))) flags |= kMoves | kMovesOverLink;
      if (!x.is_message(x.rows_moved_by(t))) flags |= kMovesOverLink;
    }
    if (flags != 0) atomicOr(&plan.flags, flags);
  }
  __syncthreads();
  if (!x.expects_large && (plan.flags & kMovesOverLink) != 0) {
#pragma unroll 1
    for (int source = t; source < n_ranks; source += x.n_threads()) {
      if (source == x.rank()) continue;
      load_acquire_system(x.pad<uint64_t>(x.rank(), x.layout.split_offset(context.epoch, source)));
    }
    __syncthreads();
  }
  if ((plan.flags & kOverflows) == 0) return true;
  if (x.block == 0) report_overflow(x);
  return false;
}

/// Step 5, for payload k. False for a thread whose wait failed.
__device__ inline bool take_messages(const Exchange& x, int k) {
  const AllToAllPayload& payload = x.arguments.payloads[k];
  const WaitContext context = x.context();
  const uint32_t epoch = context.epoch;
  const int step = x.n_blocks * x.n_threads();
  const int first = x.block * x.n_threads() + x.thread();
#pragma unroll 1
  for (int away = 1; away < x.n_ranks(); ++away) {
    const int peer = x.rank() + away < x.n_ranks() ? x.rank() + away : x.rank() + away - x.n_ranks();
    const int rows = x.plan.rows[peer][x.rank()];
    if (rows == 0 || !x.is_message(rows)) continue;
    char* to = static_cast<char*>(payload.output) + x.plan.output_first[peer] * payload.row_bytes;
    const uint64_t* from = x.pad<uint64_t>(x.rank(), x.layout.mailbox_offset(epoch, peer)) + x.message_start(k, rows);
    const int words = x.message_words(k, rows);
    if (payload.row_bytes % 8 == 0) {
#pragma unroll 1
      for (int i = first; i < words / 2; i += kMessageUnroll * step) {
        uint64_t low[kMessageUnroll];
        uint64_t high[kMessageUnroll];
        const bool here = wait_until(context, WaitKind::kRows, peer, [&] {
#pragma unroll
          for (int u = 0; u < kMessageUnroll; ++u) {
            low[u] = high[u] = tag_word(epoch, 0);
            if (i + u * step < words / 2) load_relaxed_system(from + 2 * (i + u * step), low[u], high[u]);
          }
          bool all = true;
#pragma unroll
          for (int u = 0; u < kMessageUnroll; ++u) {
            all = all && static_cast<uint32_t>(low[u] >> 32) == epoch && static_cast<uint32_t>(high[u] >> 32) == epoch;
          }
          return all;
        });
        if (!here) return false;
#pragma unroll
        for (int u = 0; u < kMessageUnroll; ++u) {
          if (i + u * step < words / 2) {
            reinterpret_cast<uint2*>(to)[i + u * step] = {static_cast<uint32_t>(low[u]),
                                                          static_cast<uint32_t>(high[u])};
          }
        }
      }
    } else {
#pragma unroll 1
      for (int i = first; i < words; i += step) {
        uint64_t word = 0;
        const bool here = wait_until(context, WaitKind::kRows, peer, [&] {
          word = load_relaxed_system(from + i);
          return static_cast<uint32_t>(word >> 32) == epoch;
        });
        if (!here) return false;
        reinterpret_cast<uint32_t*>(to)[i] = static_cast<uint32_t>(word);
      }
    }
  }
  return true;
}

/// Step 6. `moved` is false for a thread to which nothing was exchanged or something failed. A block that failed sends
/// no signal.
__device__ inline void finish_exchange(const Exchange& x, bool moved) {
  const AllToAllArguments& a = x.arguments;
  ExchangePlan& plan = x.plan;
  moved = __syncthreads_and(moved) != 0;
  if (moved && (plan.flags & kMovesOverLink) != 0 && (x.pushes() || a.source_reuse == SourceReuse::kAfterExchange)) {
    const WaitContext context = x.context();
#pragma unroll 1
    for (int p = x.thread(); p < x.n_ranks(); p += x.n_threads()) {
      if (p == x.rank()) continue;
      if (!x.is_message(x.rows_to_move(p))) {
        add_release_system(x.pad<uint32_t>(p, x.layout.finished_offset(x.rank())), 1);
      }
      if (plan.is_closing_block != 0 && !x.is_message(x.rows_moved_by(p))) {
        uint32_t* finished = x.pad<uint32_t>(x.rank(), x.layout.finished_offset(p));
        wait_until(context, x.pushes() ? WaitKind::kRows : WaitKind::kRelease, p,
                   [&] { return load_acquire_system(finished) == plan.blocks[p]; });
        store_relaxed_system(finished, 0u);
      }
    }
  }
  if (plan.is_closing_block != 0 && x.thread() == 0) {
    a.state->blocks_started = 0;
    a.state->epoch = plan.epoch;
  }
}

/// One block's part of an exchange. `shared` is room for a Ring (void: none, every thread copies).
template <typename Ring>
__device__ void exchange_block(const AllToAllArguments& arguments, int block, int n_blocks, char* shared) {
  __shared__ ExchangePlan plan;
  const Exchange x(arguments, plan, block, n_blocks, !std::is_void_v<Ring>);
  const int n_payloads = arguments.n_payloads;
  bool moved = false;
  if (begin_exchange(x, arguments)) {
    // Large pairs wait for the splits, messages for the rows that come with them.
    constexpr bool kSplitsFirst = !std::is_void_v<Ring>;
    if (kSplitsFirst && block == 0) announce_splits(x);
    lay_out_own_rows(x);
    if (!kSplitsFirst && block == 0) announce_splits(x);
    RowMover<Ring> mover(x, shared);
    mover.start();
#pragma unroll 1
    for (int k = 0; k < n_payloads; ++k) send_messages(x, k);
    moved = gather_splits(x);
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
    // Rows first: messages arrive meanwhile.
    mover.finish(moved && (plan.flags & kMoves) != 0);
#pragma unroll 1
    for (int k = 0; k < n_payloads; ++k) moved = moved && take_messages(x, k);
  }
  finish_exchange(x, moved);
}

}  // namespace deeptitan::cuda
