// Every block scans the counts (a few hundred, from the second-level cache) for itself and then fills its own part of
// the rows, finding a row's segment by binary search in shared memory: one launch and no block waits for another. Most
// of its instructions run once, so fetching them is part of the time: loops that rarely go round twice stay loops.

#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/fast_divide.h"
#include "kernels/cuda/permute_indices/permute_indices.h"
#include "kernels/cuda/warp.cuh"

namespace deeptitan::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kRowsOfThread = 4;
constexpr int kRowsOfBlock = kThreads * kRowsOfThread;

int blocks_of_rows(int64_t rows) {
  return static_cast<int>(std::max<int64_t>((rows + kRowsOfBlock - 1) / kRowsOfBlock, 1));
}

/// out[i] = the sum of value(0) to value(i - 1), for 0 <= i < count, and the sum of all returned. A thread has
/// consecutive values. Ends with a barrier.
template <typename Value>
__device__ int32_t block_prefix_sums(int32_t* out, int count, int32_t* warp_totals, const Value& value) {
  const int per_thread = (count + kThreads - 1) / kThreads;
  const int begin = min(static_cast<int>(threadIdx.x) * per_thread, count);
  const int end = min(begin + per_thread, count);
  int32_t sum = 0;
  for (int i = begin; i < end; ++i) sum += value(i);
  int32_t total;
  int32_t prefix = block_exclusive_scan<kThreads>(sum, warp_totals, total);
  for (int i = begin; i < end; ++i) {
    out[i] = prefix;
    prefix += value(i);
  }
  __syncthreads();
  return total;
}

/// The last i with start[i] <= row, of rising start [count] with start[0] <= row.
__device__ int last_not_above(const int32_t* start, int count, int32_t row) {
  int low = 0;
  int high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (start[middle] <= row) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

/// Rows first to first + 3 of `out`, as far as they exist.
__device__ void store_rows(int32_t* out, int64_t first, int64_t rows, const int32_t (&value)[kRowsOfThread]) {
  static_assert(kRowsOfThread == 4);
  if (first + kRowsOfThread <= rows && reinterpret_cast<uintptr_t>(out) % 16 == 0) {
    *reinterpret_cast<int4*>(out + first) = make_int4(value[0], value[1], value[2], value[3]);
    return;
  }
#pragma unroll
  for (int i = 0; i < kRowsOfThread; ++i) {
    if (first + i < rows) out[first + i] = value[i];
  }
}

/// x[k] becomes the sum of the x[k] of all threads below this one, total[k] the sum over the block; kCount scans at
/// once and one barrier. Every thread must call it; `warp_totals` is shared memory that no other call uses.
template <int kCount>
__device__ void block_exclusive_scans(int32_t (&x)[kCount], int32_t (&total)[kCount],
                                      int32_t (&warp_totals)[kCount][kThreads / kWarp]) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  int32_t inclusive[kCount];
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    inclusive[k] = warp_inclusive_scan(x[k], lane);
    if (lane == kWarp - 1) warp_totals[k][warp] = inclusive[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    x[k] = inclusive[k] - x[k];
    total[k] = 0;
#pragma unroll
    for (int w = 0; w < kThreads / kWarp; ++w) {
      if (w < warp) x[k] += warp_totals[k][w];
      total[k] += warp_totals[k][w];
    }
  }
}

struct PermuteIndicesArguments {
  int32_t* input_row;
  int32_t* group_size;
  int32_t* group_offset;
  const int32_t* counts;
  int ranks;
  int experts;
  int64_t row_capacity;
  FastDivide by_ranks;
  FastDivide by_alignment;
};

/// Dynamic shared memory: 2 * segments + 1 + experts int32. Segments are numbered rank * experts + expert in the order
/// of the input, expert * ranks + rank in that of the output.
__global__ void __launch_bounds__(kThreads) permute_indices_kernel(PermuteIndicesArguments a) {
  extern __shared__ int32_t shared[];
  __shared__ int32_t segment_totals[2][kThreads / kWarp];
  __shared__ int32_t expert_totals[1][kThreads / kWarp];
  const int ranks = a.ranks;
  const int experts = a.experts;
  const int segments = ranks * experts;
  int32_t* input_start = shared;                        // [segments], in input order
  int32_t* output_start = input_start + segments;       // [segments + 1], in output order, without padding
  int32_t* expert_start = output_start + segments + 1;  // [experts], with padding

  // A thread has consecutive segments in both orders.
  const int segments_of_thread = (segments + kThreads - 1) / kThreads;
  const int first_segment = min(static_cast<int>(threadIdx.x) * segments_of_thread, segments);
  const int end_segment = min(first_segment + segments_of_thread, segments);
  int32_t prefix[2] = {};
#pragma unroll 1
  for (int i = first_segment; i < end_segment; ++i) {
    const int expert = static_cast<int>(a.by_ranks.divide(i));
    const int32_t count_in = __ldg(a.counts + i);
    const int32_t count_out = __ldg(a.counts + (i - expert * ranks) * experts + expert);
    input_start[i] = count_in;
    output_start[i] = count_out;
    prefix[0] += count_in;
    prefix[1] += count_out;
  }
  int32_t rows_used[2];
  block_exclusive_scans(prefix, rows_used, segment_totals);
#pragma unroll 1
  for (int i = first_segment; i < end_segment; ++i) {
    const int32_t count[2] = {input_start[i], output_start[i]};
    input_start[i] = prefix[0];
    output_start[i] = prefix[1];
    prefix[0] += count[0];
    prefix[1] += count[1];
  }
  if (threadIdx.x == 0) output_start[segments] = rows_used[1];
  __syncthreads();

  const auto size_of = [&](int e) { return output_start[(e + 1) * ranks] - output_start[e * ranks]; };
  const auto padded_size_of = [&](int e) {
    const uint32_t alignment = a.by_alignment.divisor();
    return static_cast<int32_t>(a.by_alignment.divide(size_of(e) + alignment - 1) * alignment);
  };
  const int experts_of_thread = (experts + kThreads - 1) / kThreads;
  const int first_expert = min(static_cast<int>(threadIdx.x) * experts_of_thread, experts);
  const int end_expert = min(first_expert + experts_of_thread, experts);
  int32_t start[1] = {};
  int32_t total[1];
#pragma unroll 1
  for (int e = first_expert; e < end_expert; ++e) start[0] += padded_size_of(e);
  block_exclusive_scans(start, total, expert_totals);
#pragma unroll 1
  for (int e = first_expert; e < end_expert; ++e) {
    expert_start[e] = start[0];
    if (blockIdx.x == 0) {
      a.group_size[e] = size_of(e);
      a.group_offset[e] = start[0];
    }
    start[0] += padded_size_of(e);
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) a.group_offset[experts] = total[0];
  __syncthreads();

  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x * kRowsOfThread;
  if (first >= a.row_capacity) return;
  int32_t value[kRowsOfThread] = {-1, -1, -1, -1};
  if (first < total[0]) {
    // Rows of an expert are looked up among its segments by their number without the padding before it.
    int expert = last_not_above(expert_start, experts, static_cast<int32_t>(first));
    int32_t padding = expert_start[expert] - output_start[expert * ranks];
    int segment =
        expert * ranks + last_not_above(output_start + expert * ranks, ranks, static_cast<int32_t>(first) - padding);
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) {
      const auto row = static_cast<int32_t>(first + i);
      if (row >= total[0]) break;
      while (expert + 1 < experts && expert_start[expert + 1] <= row) {
        ++expert;
        segment = expert * ranks;
        padding = expert_start[expert] - output_start[segment];
      }
      const int32_t unpadded = row - padding;
      const int end = (expert + 1) * ranks;
      while (segment + 1 < end && output_start[segment + 1] <= unpadded) ++segment;
      if (unpadded < output_start[end]) {
        value[i] = input_start[(segment - expert * ranks) * experts + expert] + unpadded - output_start[segment];
      }
    }
  }
  store_rows(a.input_row, first, a.row_capacity, value);
}

/// Shared memory: `groups` int32. group_offset or group_size may be null, not both.
__global__ void __launch_bounds__(kThreads) group_of_rows_kernel(int32_t* group, const int32_t* group_offset,
                                                                 const int32_t* group_size, int groups, int64_t rows) {
  extern __shared__ int32_t start[];
  __shared__ int32_t warp_totals[kThreads / kWarp];
  int64_t total;
  if (group_offset != nullptr) {
    for (int g = threadIdx.x; g < groups; g += kThreads) start[g] = group_offset[g];
    total = group_offset[groups];
    __syncthreads();
  } else {
    total = block_prefix_sums(start, groups, warp_totals, [&](int g) { return group_size[g]; });
  }
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x * kRowsOfThread;
  if (first >= rows) return;
  int32_t value[kRowsOfThread];
  int g = first < total ? last_not_above(start, groups, static_cast<int32_t>(first)) : 0;
#pragma unroll
  for (int i = 0; i < kRowsOfThread; ++i) {
    const int64_t row = first + i;
    value[i] = -1;
    if (row >= total) continue;
    while (g + 1 < groups && start[g + 1] <= row) ++g;
    if (group_size == nullptr || row < static_cast<int64_t>(start[g]) + group_size[g]) value[i] = g;
  }
  store_rows(group, first, rows, value);
}

void launch_group_of_rows(int32_t* group, const int32_t* group_offset, const int32_t* group_size, int groups,
                          int64_t rows, cudaStream_t stream) {
  DT_CHECK(groups >= 0 && groups <= kMaxSegments, "group_of_rows: groups = {}, must be 0 to {}", groups, kMaxSegments);
  if (rows == 0) return;
  const size_t shared_bytes = groups * sizeof(int32_t);
  group_of_rows_kernel<<<blocks_of_rows(rows), kThreads, shared_bytes, stream>>>(group, group_offset, group_size,
                                                                                 groups, rows);
  check_launch("group_of_rows_kernel");
}

}  // namespace

void permute_indices(int32_t* input_row, int32_t* group_size, int32_t* group_offset, const int32_t* counts,
                     const PermuteIndicesShape& shape, cudaStream_t stream) {
  check_permute_indices_shape(shape);
  const size_t segments = static_cast<size_t>(shape.source_ranks) * shape.local_experts;
  const size_t shared_bytes = (2 * segments + 1 + shape.local_experts) * sizeof(int32_t);
  constexpr size_t kSharedBytesWithoutAsking = 48 << 10;
  if (shared_bytes > kSharedBytesWithoutAsking) {
    DT_CUDA_CHECK(cudaFuncSetAttribute(permute_indices_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(shared_bytes)));
  }
  const PermuteIndicesArguments arguments{input_row,
                                          group_size,
                                          group_offset,
                                          counts,
                                          shape.source_ranks,
                                          shape.local_experts,
                                          shape.row_capacity,
                                          FastDivide(static_cast<uint32_t>(shape.source_ranks)),
                                          FastDivide(static_cast<uint32_t>(shape.alignment))};
  permute_indices_kernel<<<blocks_of_rows(shape.row_capacity), kThreads, shared_bytes, stream>>>(arguments);
  check_launch("permute_indices_kernel");
}

void group_of_rows(int32_t* group, const int32_t* group_offset, const int32_t* group_size, int groups, int64_t rows,
                   cudaStream_t stream) {
  launch_group_of_rows(group, group_offset, group_size, groups, rows, stream);
}

void group_of_rows_from_sizes(int32_t* group, const int32_t* group_size, int groups, int64_t rows,
                              cudaStream_t stream) {
  launch_group_of_rows(group, nullptr, group_size, groups, rows, stream);
}

}  // namespace deeptitan::cuda
