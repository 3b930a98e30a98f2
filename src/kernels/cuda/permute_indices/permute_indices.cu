// Every block scans the counts (a few hundred, from the second-level cache) for itself and then fills its own part of
// the rows, finding a row's segment by binary search in shared memory: one launch and no block waits for another.

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

/// Dynamic shared memory: 3 * segments + 1 + experts int32. Segments are numbered rank * experts + expert in the order
/// of the input, expert * ranks + rank in that of the output.
__global__ void __launch_bounds__(kThreads)
    permute_indices_kernel(int32_t* input_row, int32_t* group_size, int32_t* group_offset, const int32_t* counts,
                           PermuteIndicesShape shape, FastDivide by_ranks) {
  extern __shared__ int32_t shared[];
  __shared__ int32_t warp_totals[kThreads / kWarp];
  const int ranks = shape.source_ranks;
  const int experts = shape.local_experts;
  const int segments = ranks * experts;
  int32_t* count = shared;                              // [segments], in input order
  int32_t* input_start = count + segments;              // [segments], in input order
  int32_t* output_start = input_start + segments;       // [segments + 1], in output order, without padding at first
  int32_t* expert_start = output_start + segments + 1;  // [experts], with padding

  for (int i = threadIdx.x; i < segments; i += kThreads) count[i] = counts[i];
  __syncthreads();
  block_prefix_sums(input_start, segments, warp_totals, [&](int i) { return count[i]; });
  const int32_t rows_used = block_prefix_sums(output_start, segments, warp_totals, [&](int i) {
    const int expert = static_cast<int>(by_ranks.divide(i));
    return count[(i - expert * ranks) * experts + expert];
  });
  if (threadIdx.x == 0) output_start[segments] = rows_used;
  __syncthreads();
  const auto size_of = [&](int e) { return output_start[(e + 1) * ranks] - output_start[e * ranks]; };
  const int32_t total = block_prefix_sums(expert_start, experts, warp_totals, [&](int e) {
    return (size_of(e) + shape.alignment - 1) / shape.alignment * shape.alignment;
  });
  if (blockIdx.x == 0) {
    for (int e = threadIdx.x; e < experts; e += kThreads) {
      group_size[e] = size_of(e);
      group_offset[e] = expert_start[e];
    }
    if (threadIdx.x == 0) group_offset[experts] = total;
  }
  // Each expert's segments move by the padding before it. Its first segment is read by the others, so it moves last.
  __syncthreads();
  for (int i = threadIdx.x; i < segments; i += kThreads) {
    const int e = static_cast<int>(by_ranks.divide(i));
    if (i != e * ranks) output_start[i] += expert_start[e] - output_start[e * ranks];
  }
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += kThreads) output_start[e * ranks] = expert_start[e];
  __syncthreads();

  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x * kRowsOfThread;
  if (first >= shape.row_capacity) return;
  int32_t value[kRowsOfThread];
  int segment = first < total ? last_not_above(output_start, segments, static_cast<int32_t>(first)) : 0;
#pragma unroll
  for (int i = 0; i < kRowsOfThread; ++i) {
    const int64_t row = first + i;
    value[i] = -1;
    if (row >= total) continue;
    while (segment + 1 < segments && output_start[segment + 1] <= row) ++segment;
    const int expert = static_cast<int>(by_ranks.divide(segment));
    const int in_input_order = (segment - expert * ranks) * experts + expert;
    const int32_t within = static_cast<int32_t>(row) - output_start[segment];
    if (within < count[in_input_order]) value[i] = input_start[in_input_order] + within;
  }
  store_rows(input_row, first, shape.row_capacity, value);
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
  const size_t shared_bytes = (3 * segments + 1 + shape.local_experts) * sizeof(int32_t);
  constexpr size_t kSharedBytesWithoutAsking = 48 << 10;
  if (shared_bytes > kSharedBytesWithoutAsking) {
    DT_CUDA_CHECK(cudaFuncSetAttribute(permute_indices_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(shared_bytes)));
  }
  permute_indices_kernel<<<blocks_of_rows(shape.row_capacity), kThreads, shared_bytes, stream>>>(
      input_row, group_size, group_offset, counts, shape, FastDivide(static_cast<uint32_t>(shape.source_ranks)));
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
