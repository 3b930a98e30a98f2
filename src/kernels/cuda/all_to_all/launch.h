#pragma once

#include "kernels/cuda/all_to_all/all_to_all.h"

namespace deeptitan::cuda {

/// all_to_all_v without its checks, by `blocks` blocks; `bulk` for Hopper's bulk copy engine.
void launch_all_to_all_v(const AllToAllArguments& arguments, int blocks, bool bulk, cudaStream_t stream);

}  // namespace deeptitan::cuda
