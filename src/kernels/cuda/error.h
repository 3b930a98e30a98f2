#pragma once

// No CUDA header here: host code without nvcc may include this file.

namespace deeptitan::cuda {

/// Throws Error naming the CUDA call that failed, its error and its place, unless `status` (a cudaError_t) is success.
void check_cuda(int status, const char* call, const char* file, int line);

/// Throws Error if the launch just made was refused (configuration, missing machine code for this chip). It does not
/// wait for the kernel. `kernel` is its name in the message.
void check_launch(const char* kernel);

}  // namespace deeptitan::cuda

/// Checks a CUDA runtime call: DT_CUDA_CHECK(cudaMemcpyAsync(...)).
#define DT_CUDA_CHECK(call) ::deeptitan::cuda::check_cuda(static_cast<int>(call), #call, __FILE__, __LINE__)
