#pragma once

#include "kernels/cuda/all_to_all/all_to_all.h"

namespace deeptitan::cuda {

/// How rows that do not go by mailbox are copied.
enum class RowCopies {
  kThreads,          // loads and stores of all threads
  kBulk,             // Hopper's bulk copies
  kBulkByFewBlocks,  // the same, with more bytes under way in a block
};

/// How all_to_all_v is launched.
struct AllToAllLaunch {
  int blocks;
  RowCopies copies;
  bool dependent;  // prepare the launch while the kernel before it runs (compute capability 9.0 on)
};

/// all_to_all_v without its checks.
void launch_all_to_all_v(const AllToAllArguments& arguments, const AllToAllLaunch& launch, cudaStream_t stream);

}  // namespace deeptitan::cuda
