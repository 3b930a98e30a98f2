#include "kernels/cuda/error.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "kernels/cuda/device_buffer.h"

namespace deeptitan::cuda {
namespace {

TEST(CudaError, MessageNamesCallAndError) {
  try {
    check_cuda(cudaErrorInvalidValue, "cudaMemcpy(a, b)", "here.cu", 7);
    FAIL() << "no error thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "cudaMemcpy(a, b) failed: invalid argument (cudaErrorInvalidValue), at here.cu:7");
    EXPECT_EQ(error.kind(), ErrorKind::kRuntime);
  }
}

TEST(CudaError, SuccessIsSilent) {
  EXPECT_NO_THROW(check_cuda(cudaSuccess, "call", "file", 1));
}

TEST(CudaError, BufferRoundTrip) {
  DT_SKIP_WITHOUT_GPU();
  const std::vector<int> values{1, 2, 3};
  EXPECT_EQ(DeviceBuffer<int>(values).download(), values);
}

}  // namespace
}  // namespace deeptitan::cuda
