#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace deeptitan::cuda {

/// sizes[g] = offsets[g + 1] - offsets[g], all on the device.
void sizes_of_groups(int32_t* sizes, const int32_t* offsets, int64_t groups, cudaStream_t stream);

}  // namespace deeptitan::cuda
