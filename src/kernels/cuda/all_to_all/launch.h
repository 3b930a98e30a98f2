#pragma once

#include "kernels/cuda/all_to_all/all_to_all.h"

namespace deeptitan::cuda {

/// all_to_all_v without its checks, by `blocks` blocks; `hopper` if the device has bulk copies and dependent launches.
void launch_all_to_all_v(const AllToAllArguments& arguments, int blocks, bool hopper, cudaStream_t stream);

}  // namespace deeptitan::cuda
