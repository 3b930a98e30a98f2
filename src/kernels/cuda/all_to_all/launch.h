#pragma once

#include "kernels/cuda/all_to_all/all_to_all.h"

namespace deeptitan::cuda {

/// How all_to_all_v is launched.
struct AllToAllLaunch {
  int blocks;
  bool bulk;       // move rows with Hopper's bulk copies
  bool dependent;  // prepare the launch while the kernel before it runs (compute capability 9.0 on)
};

/// all_to_all_v without its checks.
void launch_all_to_all_v(const AllToAllArguments& arguments, const AllToAllLaunch& launch, cudaStream_t stream);

}  // namespace deeptitan::cuda
