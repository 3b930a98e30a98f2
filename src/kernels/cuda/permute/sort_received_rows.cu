#include "core/error.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/permute/permute.h"
#include "kernels/cuda/warp.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;

/// A block a segment, that is the rows of a rank and expert, which are neighbours before and behind. Each adds up the
/// counts that it needs by itself; the maps are -1 at first.
__global__ void __launch_bounds__(kThreads)
    sort_received_rows_kernel(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, int32_t* sizes,
                              int32_t* row_overflow, const int32_t* __restrict__ counts, ReceivedRowsShape shape) {
  __shared__ int32_t sums[kThreads / kWarp];
  const auto experts = static_cast<int>(shape.experts);
  const int segments = static_cast<int>(shape.ranks) * experts;
  const int segment = static_cast<int>(blockIdx.x);
  const int rank = segment / experts, expert = segment % experts;
  int32_t before_slots = 0, before_rows = 0, of_expert = 0, all = 0;
  for (int i = static_cast<int>(threadIdx.x); i < segments; i += kThreads) {
    const int32_t count = counts[i];
    const int r = i / experts, e = i % experts;
    all += count;
    if (i < segment) before_slots += count;
    if (e < expert || (e == expert && r < rank)) before_rows += count;
    if (e == expert) of_expert += count;
  }
  int32_t first_slot, first_row, size, came;
  block_exclusive_scan<kThreads>(before_slots, sums, first_slot);
  block_exclusive_scan<kThreads>(before_rows, sums, first_row);
  block_exclusive_scan<kThreads>(of_expert, sums, size);
  block_exclusive_scan<kThreads>(all, sums, came);
  const bool fits = came <= shape.rows;
  if (threadIdx.x == 0 && rank == 0) {  // first_row is the expert's first
    group_offset[expert] = fits ? first_row : 0;
    sizes[expert] = fits ? size : 0;
    if (expert == experts - 1) group_offset[experts] = fits ? came : 0;
    if (!fits && row_overflow != nullptr) *row_overflow = 1;
  }
  if (!fits) return;
  const int32_t count = counts[segment];
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < count; i += kThreads) {
    row_of_slot[first_slot + i] = first_row + i;
    slot_of_row[first_row + i] = first_slot + i;
  }
}

}  // namespace

void sort_received_rows(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, int32_t* sizes,
                        int32_t* row_overflow, const int32_t* counts, const ReceivedRowsShape& shape,
                        cudaStream_t stream) {
  DT_CHECK(shape.ranks >= 1 && shape.experts >= 1, "sort_received_rows: {} experts of {} ranks", shape.experts,
           shape.ranks);
  const auto bytes = static_cast<size_t>(shape.rows) * sizeof(int32_t);
  DT_CUDA_CHECK(cudaMemsetAsync(row_of_slot, 0xff, bytes, stream));
  DT_CUDA_CHECK(cudaMemsetAsync(slot_of_row, 0xff, bytes, stream));
  sort_received_rows_kernel<<<static_cast<unsigned>(shape.ranks * shape.experts), kThreads, 0, stream>>>(
      row_of_slot, slot_of_row, group_offset, sizes, row_overflow, counts, shape);
  check_launch("sort_received_rows_kernel");
}

}  // namespace deeptitan::cuda
