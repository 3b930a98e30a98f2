// Every block scans the counts (a few hundred, from the second-level cache) for itself and then fills its own part of
// the rows: one launch and no block waits for another. It takes a few microseconds, all of them latency, so what counts
// is the length of the chain of steps that depend on each other and the instructions on it, which run once and have to
// be fetched.

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
    const int32_t of_warp = lane < kThreads / kWarp ? warp_totals[k][lane] : 0;
    total[k] = __reduce_add_sync(kAllLanes, of_warp);
    x[k] = inclusive[k] - x[k] + __reduce_add_sync(kAllLanes, lane < warp ? of_warp : 0);
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

/// Output rows up to `end` are the input rows `shift` further on. end 0: there is no such run.
struct alignas(8) Run {
  int32_t shift;
  uint32_t end;
};

/// Writes the run of a segment, which begins at row `first`, where the block that begins at row `block_first` looks
/// for it: at its first row and at the first row of each of the block's windows (a warp's rows) that it reaches into.
///
/// Example, windows of 128 rows: a segment of output rows 100 to 299 is written at rows 100, 128 and 256. A row's run
/// is then the last one written at or before it in its own window, and no row need look beyond its warp.
__device__ void place_run(Run (&runs)[kThreads][kRowsOfThread], uint32_t block_first, uint32_t first, const Run& run) {
  constexpr int kWindow = kWarp * kRowsOfThread;
  const int end = min(static_cast<int>(run.end - block_first), kRowsOfBlock);
#pragma unroll 1
  for (int row = max(static_cast<int>(first - block_first), 0); row < end; row = (row / kWindow + 1) * kWindow) {
    (&runs[0][0])[row] = run;
  }
}

/// Dynamic shared memory: 2 * segments + 1 + experts int32. Segments are numbered rank * experts + expert in the order
/// of the input, expert * ranks + rank in that of the output. A thread has kSegments consecutive ones in both orders,
/// as far as there are so many.
template <int kSegments>
__global__ void __launch_bounds__(kThreads) permute_indices_kernel(const __grid_constant__ PermuteIndicesArguments a) {
  extern __shared__ int32_t shared[];
  __shared__ alignas(16) Run runs[kThreads][kRowsOfThread];
  __shared__ int32_t segment_totals[2][kThreads / kWarp];
  __shared__ int32_t expert_totals[1][kThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  const int ranks = a.ranks;
  const int experts = a.experts;
  const int segments = ranks * experts;
  int32_t* input_start = shared;                   // [segments], in input order
  int32_t* output_start = input_start + segments;  // [segments + 1], in output order, without padding
  int32_t* padding = output_start + segments + 1;  // [experts], rows of padding before the expert

  int32_t count_in[kSegments];   // of this thread's segments in input order
  int32_t count_out[kSegments];  // in output order
  int expert_of[kSegments];      // of those in output order
  int input_of[kSegments];       // and their place in input order
#pragma unroll
  for (int i = 0; i < kSegments; ++i) {
    const int segment = thread * kSegments + i;
    expert_of[i] = static_cast<int>(a.by_ranks.divide(segment));
    input_of[i] = (segment - expert_of[i] * ranks) * experts + expert_of[i];
    count_in[i] = segment < segments ? __ldg(a.counts + segment) : 0;
    count_out[i] = segment < segments ? __ldg(a.counts + input_of[i]) : 0;
  }
#pragma unroll
  for (Run& run : runs[thread]) run = {0, 0};

  int32_t start[2] = {};
#pragma unroll
  for (int i = 0; i < kSegments; ++i) {
    start[0] += count_in[i];
    start[1] += count_out[i];
  }
  int32_t rows_used[2];
  block_exclusive_scans(start, rows_used, segment_totals);
  const int32_t first_output_start = start[1];
#pragma unroll
  for (int i = 0; i < kSegments; ++i) {
    const int segment = thread * kSegments + i;
    if (segment < segments) {
      input_start[segment] = start[0];
      output_start[segment] = start[1];
    }
    start[0] += count_in[i];
    start[1] += count_out[i];
  }
  if (thread == 0) output_start[segments] = rows_used[1];
  __syncthreads();

  // A thread has consecutive experts too; there are no more of them than of segments.
  const auto padded = [&](int32_t size) {
    const uint32_t alignment = a.by_alignment.divisor();
    return static_cast<int32_t>(a.by_alignment.divide(size + alignment - 1) * alignment);
  };
  const int experts_of_thread = kSegments == 1 ? 1 : (experts + kThreads - 1) / kThreads;
  const int first_expert = thread * experts_of_thread;
  const int end_expert = min(first_expert + experts_of_thread, experts);
  int32_t size[kSegments];
  int32_t offset[1] = {};
#pragma unroll
  for (int i = 0; i < kSegments; ++i) {
    const int e = first_expert + i;
    size[i] = e < end_expert ? output_start[(e + 1) * ranks] - output_start[e * ranks] : 0;
    offset[0] += padded(size[i]);
  }
  int32_t total[1];
  block_exclusive_scans(offset, total, expert_totals);
#pragma unroll
  for (int i = 0; i < kSegments; ++i) {
    const int e = first_expert + i;
    if (e < end_expert) {
      padding[e] = offset[0] - output_start[e * ranks];
      if (blockIdx.x == 0) {
        a.group_size[e] = size[i];
        a.group_offset[e] = offset[0];
      }
    }
    offset[0] += padded(size[i]);
  }
  if (blockIdx.x == 0 && thread == 0) a.group_offset[experts] = total[0];
  __syncthreads();

  // Rows from 2^31 on are beyond every segment.
  const int64_t block_first = static_cast<int64_t>(blockIdx.x) * kRowsOfBlock;
  const auto block_row = static_cast<uint32_t>(min(block_first, int64_t{1} << 31));
  int32_t unpadded = first_output_start;
#pragma unroll
  for (int i = 0; i < kSegments; ++i) {
    if (count_out[i] > 0) {
      const int32_t first = unpadded + padding[expert_of[i]];
      const Run run{input_start[input_of[i]] - first, static_cast<uint32_t>(first + count_out[i])};
      place_run(runs, block_row, static_cast<uint32_t>(first), run);
    }
    unpadded += count_out[i];
  }
  __syncthreads();

  Run own[kRowsOfThread];
  Run last{0, 0};
#pragma unroll
  for (int i = 0; i < kRowsOfThread; ++i) {
    own[i] = runs[thread][i];
    if (own[i].end != 0) last = own[i];
  }
  const int lane = thread % kWarp;
  const uint32_t lanes_below = __ballot_sync(kAllLanes, last.end != 0) & ((1u << lane) - 1);
  const int nearest = 31 - __clz(static_cast<int>(lanes_below));
  Run run{__shfl_sync(kAllLanes, last.shift, nearest), __shfl_sync(kAllLanes, last.end, nearest)};
  if (lanes_below == 0) run.end = 0;
  int32_t value[kRowsOfThread];
#pragma unroll
  for (int i = 0; i < kRowsOfThread; ++i) {
    if (own[i].end != 0) run = own[i];
    const uint32_t row = block_row + thread * kRowsOfThread + i;
    value[i] = row < run.end ? static_cast<int32_t>(row) + run.shift : -1;
  }
  const int64_t first = block_first + thread * kRowsOfThread;
  if (first < a.row_capacity) store_rows(a.input_row, first, a.row_capacity, value);
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

template <int kSegments>
void launch_permute_indices(const PermuteIndicesArguments& a, cudaStream_t stream) {
  const size_t segments = static_cast<size_t>(a.ranks) * a.experts;
  const size_t shared_bytes = (2 * segments + 1 + a.experts) * sizeof(int32_t);
  constexpr size_t kSharedBytesWithoutAsking = (48 << 10) - sizeof(Run) * kRowsOfBlock - 1024;
  if (shared_bytes > kSharedBytesWithoutAsking) {
    DT_CUDA_CHECK(cudaFuncSetAttribute(permute_indices_kernel<kSegments>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(shared_bytes)));
  }
  permute_indices_kernel<kSegments><<<blocks_of_rows(a.row_capacity), kThreads, shared_bytes, stream>>>(a);
  check_launch("permute_indices_kernel");
}

}  // namespace

void permute_indices(int32_t* input_row, int32_t* group_size, int32_t* group_offset, const int32_t* counts,
                     const PermuteIndicesShape& shape, cudaStream_t stream) {
  check_permute_indices_shape(shape);
  const PermuteIndicesArguments arguments{input_row,
                                          group_size,
                                          group_offset,
                                          counts,
                                          shape.source_ranks,
                                          shape.local_experts,
                                          shape.row_capacity,
                                          FastDivide(static_cast<uint32_t>(shape.source_ranks)),
                                          FastDivide(static_cast<uint32_t>(shape.alignment))};
  const int segments = shape.source_ranks * shape.local_experts;
  if (segments <= kThreads) {
    launch_permute_indices<1>(arguments, stream);
  } else if (segments <= 8 * kThreads) {
    launch_permute_indices<8>(arguments, stream);
  } else {
    launch_permute_indices<kMaxSegments / kThreads>(arguments, stream);
  }
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
