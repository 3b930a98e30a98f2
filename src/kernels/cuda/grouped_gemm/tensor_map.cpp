#include "kernels/cuda/grouped_gemm/tensor_map.h"

#include <cuda_runtime_api.h>

#include <vector>

#include "core/error.h"
#include "kernels/cuda/error.h"

namespace deeptitan::cuda {

namespace {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

/// The driver's encoder, found at run time so that programs start where there is no driver.
EncodeTiled find_encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  DT_CUDA_CHECK(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
  DT_CHECK(found == cudaDriverEntryPointSuccess,
           "this driver has no cuTensorMapEncodeTiled; install one for CUDA 12.0 or newer");
  return reinterpret_cast<EncodeTiled>(function);
}

CUtensorMapSwizzle swizzle_of(const TensorMapShape& shape) {
  if (!shape.swizzled) return CU_TENSOR_MAP_SWIZZLE_NONE;
  return shape.box_width * shape.element_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B;
}

}  // namespace

CUtensorMap make_tensor_map(const void* data, const TensorMapShape& shape) {
  static const EncodeTiled encode = find_encoder();
  const bool blocked = shape.box_blocks > 1;
  const int64_t row_bytes = shape.row_stride * shape.element_bytes;
  std::vector<cuuint64_t> sizes = {static_cast<cuuint64_t>(blocked ? shape.box_width : shape.width),
                                   static_cast<cuuint64_t>(shape.height)};
  std::vector<cuuint64_t> strides = {static_cast<cuuint64_t>(row_bytes)};
  std::vector<cuuint32_t> box = {static_cast<cuuint32_t>(shape.box_width), static_cast<cuuint32_t>(shape.box_height)};
  if (blocked) {
    sizes.push_back(static_cast<cuuint64_t>(shape.width / shape.box_width));
    strides.push_back(static_cast<cuuint64_t>(shape.box_width) * shape.element_bytes);
    box.push_back(static_cast<cuuint32_t>(shape.box_blocks));
  }
  sizes.push_back(static_cast<cuuint64_t>(shape.depth));
  strides.push_back(static_cast<cuuint64_t>(row_bytes * shape.height));
  box.push_back(1);
  const std::vector<cuuint32_t> element_strides(sizes.size(), 1);
  CUtensorMap map;
  const CUresult status =
      encode(&map, shape.type, static_cast<cuuint32_t>(sizes.size()), const_cast<void*>(data), sizes.data(),
             strides.data(), box.data(), element_strides.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(shape),
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  DT_CHECK(
      status == CUDA_SUCCESS,
      "the driver refused a tensor map over {} x {} x {} elements of {} bytes at {} (error {}); the address must be "
      "a multiple of 16 and a row a multiple of 16 bytes",
      shape.depth, shape.height, shape.width, shape.element_bytes, data, static_cast<int>(status));
  return map;
}

}  // namespace deeptitan::cuda
