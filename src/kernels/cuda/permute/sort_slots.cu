// A stable counting sort in two launches. The slots are cut into chunks of kSlotsOfBlock, one a block. The first launch
// counts each chunk's slots by expert; in the second each block adds up the counts of the chunks before its own, so
// that it knows where its first slot of each expert goes, and hands out places in order. Where chunks are few a block
// counts the slots before its own itself, and the second launch is the only one.

#include <algorithm>

#include "core/error.h"
#include "kernels/cpu/permute/permute.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/permute/permute.h"
#include "kernels/cuda/warp.cuh"
#include "kernels/router_options.h"

namespace deeptitan::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kSlotsOfWarp = 256;
constexpr int kSlotsOfBlock = kWarps * kSlotsOfWarp;
constexpr int kFewBlocks = 3;

int block_count(int64_t slots) {
  return static_cast<int>((slots + kSlotsOfBlock - 1) / kSlotsOfBlock);
}

/// block_counts [blocks, E] = the slots of each chunk by expert; slot_of_row [row_capacity] = -1.
__global__ void __launch_bounds__(kThreads)
    count_slots_kernel(int32_t* block_counts, int32_t* slot_of_row, const int32_t* expert_index, SlotSortShape shape) {
  __shared__ int32_t counts[kMaxExperts];
  for (int e = threadIdx.x; e < shape.experts; e += kThreads) counts[e] = 0;
  __syncthreads();
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kSlotsOfBlock;
  const int64_t end = min(begin + kSlotsOfBlock, shape.slots);
  // Integer additions commute: the order of the atomics does not show.
  for (int64_t slot = begin + threadIdx.x; slot < end; slot += kThreads) atomicAdd(&counts[expert_index[slot]], 1);
  __syncthreads();
  int32_t* out = block_counts + static_cast<int64_t>(blockIdx.x) * shape.experts;
  for (int e = threadIdx.x; e < shape.experts; e += kThreads) out[e] = counts[e];

  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; row < shape.row_capacity;
       row += stride) {
    slot_of_row[row] = -1;
  }
}

/// kAlone: nothing has been counted, nor slot_of_row been filled.
template <bool kAlone>
__global__ void __launch_bounds__(kThreads)
    place_slots_kernel(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, int32_t* group_size,
                       int32_t* row_overflow, const int32_t* expert_index, const int32_t* counts,
                       const int32_t* block_counts, SlotSortShape shape) {
  constexpr int kExpertsOfThread = (kMaxExperts + kThreads - 1) / kThreads;
  __shared__ int32_t first_row[kMaxExperts];         // of this chunk's slots of each expert
  __shared__ int32_t next_row[kWarps][kMaxExperts];  // of each warp's slots; counts of them at first
  __shared__ int32_t warp_totals[kWarps];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int experts = shape.experts;

  // Where each expert's rows begin. A thread has consecutive experts.
  int32_t padded[kExpertsOfThread];
  int32_t sum = 0;
#pragma unroll
  for (int i = 0; i < kExpertsOfThread; ++i) {
    const int e = threadIdx.x * kExpertsOfThread + i;
    padded[i] = e < experts ? (counts[e] + shape.alignment - 1) / shape.alignment * shape.alignment : 0;
    sum += padded[i];
  }
  int32_t total;
  int32_t offset = block_exclusive_scan<kThreads>(sum, warp_totals, total);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool overflow = total > shape.row_capacity;
  if constexpr (kAlone) {
    for (int64_t row = (overflow ? 0 : total) + first; row < shape.row_capacity; row += stride) slot_of_row[row] = -1;
  }
  if (overflow) {  // for all blocks alike: nothing has a row
    for (int64_t slot = first; slot < shape.slots; slot += stride) row_of_slot[slot] = -1;
    for (int64_t e = first; e <= experts; e += stride) {
      group_offset[e] = 0;
      if (group_size != nullptr && e < experts) group_size[e] = 0;
    }
    if (first == 0 && row_overflow != nullptr) *row_overflow = 1;
    return;
  }
#pragma unroll
  for (int i = 0; i < kExpertsOfThread; ++i) {
    const int e = threadIdx.x * kExpertsOfThread + i;
    if (e < experts) {
      first_row[e] = offset;
      if (blockIdx.x == 0) {
        group_offset[e] = offset;
        if (group_size != nullptr) group_size[e] = counts[e];
        if constexpr (kAlone) {
          for (int32_t row = counts[e]; row < padded[i]; ++row) slot_of_row[offset + row] = -1;
        }
      }
    }
    offset += padded[i];
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) group_offset[experts] = total;
  for (int i = threadIdx.x; i < kWarps * kMaxExperts; i += kThreads) (&next_row[0][0])[i] = 0;
  __syncthreads();

  // Past the chunks before this one.
  if constexpr (kAlone) {
    const int64_t before = static_cast<int64_t>(blockIdx.x) * kSlotsOfBlock;
#pragma unroll 8
    for (int64_t slot = threadIdx.x; slot < before; slot += kThreads) atomicAdd(&first_row[expert_index[slot]], 1);
  } else {
    for (int e = threadIdx.x; e < experts; e += kThreads) {
      int32_t before = 0;
#pragma unroll 16
      for (int b = 0; b < static_cast<int>(blockIdx.x); ++b)
        before += block_counts[static_cast<int64_t>(b) * experts + e];
      first_row[e] += before;
    }
  }
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kSlotsOfBlock + warp * kSlotsOfWarp;
  int32_t expert[kSlotsOfWarp / kWarp];
#pragma unroll
  for (int i = 0; i < kSlotsOfWarp / kWarp; ++i) {
    const int64_t slot = begin + i * kWarp + lane;
    expert[i] = slot < shape.slots ? expert_index[slot] : -1;
    if (expert[i] >= 0) atomicAdd(&next_row[warp][expert[i]], 1);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += kThreads) {
    int32_t row = first_row[e];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const int32_t count = next_row[w][e];
      next_row[w][e] = row;
      row += count;
    }
  }
  __syncthreads();

  // 32 slots at a time: those of one expert take consecutive rows in the order of their lanes.
#pragma unroll
  for (int i = 0; i < kSlotsOfWarp / kWarp; ++i) {
    const uint32_t same = __match_any_sync(kAllLanes, expert[i]);
    const int rank = __popc(same & ((1u << lane) - 1u));
    const int32_t first = expert[i] >= 0 ? next_row[warp][expert[i]] : 0;
    __syncwarp();
    if (expert[i] >= 0) {
      if (rank == 0) next_row[warp][expert[i]] = first + __popc(same);
      const int64_t slot = begin + i * kWarp + lane;
      row_of_slot[slot] = first + rank;
      slot_of_row[first + rank] = static_cast<int32_t>(slot);
    }
    __syncwarp();
  }
}

}  // namespace

namespace {

void launch_sort(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, int32_t* group_size,
                 int32_t* row_overflow, const int32_t* expert_index, const int32_t* counts, const SlotSortShape& shape,
                 void* workspace, cudaStream_t stream) {
  DT_CHECK(shape.experts >= 1 && shape.experts <= kMaxExperts, "sort_slots: experts = {}, must be 1 to {}",
           shape.experts, kMaxExperts);
  DT_CHECK(shape.alignment >= 1, "sort_slots: alignment = {}, must be at least 1", shape.alignment);
  const int blocks = std::max(block_count(shape.slots), 1);
  auto* block_counts = static_cast<int32_t*>(workspace);
  if (blocks <= kFewBlocks) {
    place_slots_kernel<true><<<blocks, kThreads, 0, stream>>>(row_of_slot, slot_of_row, group_offset, group_size,
                                                              row_overflow, expert_index, counts, nullptr, shape);
    return check_launch("place_slots_kernel");
  }
  count_slots_kernel<<<blocks, kThreads, 0, stream>>>(block_counts, slot_of_row, expert_index, shape);
  check_launch("count_slots_kernel");
  place_slots_kernel<false><<<blocks, kThreads, 0, stream>>>(row_of_slot, slot_of_row, group_offset, group_size,
                                                             row_overflow, expert_index, counts, block_counts, shape);
  check_launch("place_slots_kernel");
}

}  // namespace

size_t sort_slots_workspace_bytes(const SlotSortShape& shape) {
  return static_cast<size_t>(std::max(block_count(shape.slots), 1)) * shape.experts * sizeof(int32_t);
}

void sort_slots(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, const int32_t* expert_index,
                const int32_t* counts, const SlotSortShape& shape, void* workspace, cudaStream_t stream) {
  const int64_t needed = cpu::max_sorted_rows(shape.slots, shape.experts, shape.alignment);
  DT_CHECK(shape.row_capacity >= needed, "sort_slots: a capacity of {} rows, {} slots of {} experts may need {}",
           shape.row_capacity, shape.slots, shape.experts, needed);
  launch_sort(row_of_slot, slot_of_row, group_offset, nullptr, nullptr, expert_index, counts, shape, workspace, stream);
}

void sort_slots_that_fit(int32_t* row_of_slot, int32_t* slot_of_row, int32_t* group_offset, int32_t* group_size,
                         int32_t* row_overflow, const int32_t* expert_index, const int32_t* counts,
                         const SlotSortShape& shape, void* workspace, cudaStream_t stream) {
  launch_sort(row_of_slot, slot_of_row, group_offset, group_size, row_overflow, expert_index, counts, shape, workspace,
              stream);
}

}  // namespace deeptitan::cuda
