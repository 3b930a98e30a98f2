#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/cuda/barrier/peer_window.h"

// All-to-all-v of token rows among the ranks of one NVLink domain, driven from the device.
// R ranks, G groups per rank (1, or the experts of a rank). Of every rank's rows, laid out by destination rank, rank r
// receives those meant for it, laid out by source rank.

namespace deeptitan::cuda {

/// Where an exchange keeps its signals in the window, the same on every rank: splits announced by each source, words
/// that say "I have moved the rows", and a mailbox for small messages. See all_to_all_pad_bytes.
struct AllToAllPad {
  int64_t offset;         // bytes from the window's start, a multiple of 128; the pad is zero at first
  int32_t max_groups;     // largest n_groups of any exchange over this pad
  int64_t mailbox_bytes;  // rows of one pair of ranks up to about this many bytes are sent with the splits; multiple of
                          // 128, at most 1 GiB
};

/// Bytes of window that `pad` takes among n_ranks: the mailbox holds two exchanges of n_ranks messages at twice their
/// size.
int64_t all_to_all_pad_bytes(const AllToAllPad& pad, int n_ranks);

/// Counters of this rank for all exchanges over one pad; device memory, zero at first. Only the kernel writes it.
struct AllToAllState {
  uint32_t epoch;           // exchanges done so far
  uint32_t blocks_started;  // of the exchange under way
};

/// What an exchange found, in device memory of this rank.
struct AllToAllStatus {
  int64_t rows_received;  // written by every exchange: rows for this rank, whether or not they fitted
  int64_t rows_needed;    // set when a receive buffer was too small: the most rows that any such rank needed
  int32_t overflow_rank;  // and that rank
  int32_t overflowed;     // 1 from the first exchange that did not fit on; the caller clears it
};

/// Who moves the rows that do not go by mailbox.
enum class MoveDirection {
  kPull,  // the receiver loads them from the sender's memory: outputs may lie anywhere in its own memory
  kPush,  // the sender stores them into the receiver's outputs, which lie in the window. Faster: stores use the link
          // better than loads, and the rows need one crossing of the link where a pull needs two
};

/// Rows of one kind, such as fp8 values or their scales. Row i of every payload belongs to token copy i.
struct AllToAllPayload {
  int64_t input_offset;  // bytes from the window's start to this rank's rows, multiple of 16; the same on every rank
  void* output;          // [capacity_rows, row_bytes], aligned to 16 bytes, apart from all input rows; for kPush in the
                         // window, at the same offset on every rank
  int64_t row_bytes;     // multiple of 4; multiples of 16 are copied fastest
};

enum class SplitType { kInt32, kInt64 };

/// When the caller will next write the rows that it sends. Of no account for kPush, which has read them when it ends.
enum class SourceReuse {
  kAfterExchange,      // as soon as the launch has finished: the launch waits until the peers have read them
  kAfterNextExchange,  // only once the next exchange over this pad has finished (two send buffers in turn): no wait
};

struct AllToAllArguments {
  AllToAllPad pad;
  AllToAllPayload payloads[2];
  int32_t n_payloads;     // 1, or 2 to carry fp8 rows with their scales
  int32_t n_groups;       // G
  SplitType split_type;   // of both splits
  const void* splits;     // [R, G] rows that this rank sends, by destination rank and that rank's group
  void* output_splits;    // [R, G] rows received, by source rank and this rank's group; all 0 if nothing moved
  int64_t capacity_rows;  // rows that the outputs hold, below 2^31; may differ between ranks
  MoveDirection direction;
  SourceReuse source_reuse;
  int32_t max_blocks;  // most multiprocessors to use; 0 for the number that saturates the link
  AllToAllStatus* status;
  AllToAllState* state;
  uint64_t* error;     // first failed wait (kernels/cuda/barrier/wait_error.h), zero at first
  int64_t timeout_ns;  // longest single wait for a peer, above zero
  PeerWindow window;   // last, so that a kernel fetches no more than it needs
};

/// For each rank r:  output_r = concat over p of rows_p[first(p, r) : first(p, r) + n(p, r)], where
/// n(p, q) = sum over g of splits_p[q, g] and first(p, r) = sum over q < r of n(p, q);  output_splits_r[p, g] =
/// splits_p[r, g].
///
/// Backward is the same call: with the gradients of the outputs as rows and output_splits as splits, the gradients of
/// the inputs arrive in the inputs' order, and splits come back as output_splits.
///
/// Offsets at both ends are computed on the device from all ranks' splits. Messages of at most pad.mailbox_bytes travel
/// with the splits, in one crossing of the link; larger ones are moved once the splits are known (MoveDirection). No
/// host synchronisation, no allocation, no host state: the launch can be captured in a CUDA graph, whose replay on all
/// ranks is another exchange. Deterministic: rows are copied, never summed.
///
/// - If the rows for any rank exceed its capacity_rows, no rank moves a row: outputs and inputs stay as they are,
///   output_splits are zero, and status says on every rank which rank needs how many rows.
/// - A wait longer than timeout_ns ends with `error` set; then the outputs hold nothing of use, and every later
/// exchange
///   ends at once. A rank that gave up sends no further signals, so its peers end the same way.
/// - Exchanges that share a pad must follow each other on one stream, in the same order on all ranks. All blocks of a
///   launch must be able to run together (at most one a multiprocessor), since they wait for other GPUs.
///
/// Throws Error for arguments out of range or a refused launch. Layout and result follow torchtitan's
/// on_device_all_to_all_v; the protocol is described in docs/kernels.md.
void all_to_all_v(const AllToAllArguments& arguments, cudaStream_t stream);

}  // namespace deeptitan::cuda
