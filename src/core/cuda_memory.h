#pragma once

#include <cstdint>
#include <string>

// The CUDA side of core/device_memory, compiled only with DT_CUDA. Memory comes cleared to zero; errors name `owner`.

namespace deeptitan::cuda {

void* allocate(const std::string& owner, int device, int64_t bytes);
void free(int device, void* memory);
void* allocate_pinned(const std::string& owner, int device, int64_t bytes);
void free_pinned(void* memory);

}  // namespace deeptitan::cuda
