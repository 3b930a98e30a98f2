#include "kernels/cuda/grouped_gemm/tensor_map.h"

#include <cuda_runtime_api.h>

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

}  // namespace

CUtensorMap make_tensor_map(const void* data, const TensorMapShape& shape) {
  static const EncodeTiled encode = find_encoder();
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(shape.width), static_cast<cuuint64_t>(shape.height),
                               static_cast<cuuint64_t>(shape.depth)};
  const cuuint64_t row_bytes = static_cast<cuuint64_t>(shape.row_stride) * shape.element_bytes;
  const cuuint64_t strides[2] = {row_bytes, row_bytes * static_cast<cuuint64_t>(shape.height)};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(shape.box_width), static_cast<cuuint32_t>(shape.box_height), 1};
  const cuuint32_t element_strides[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult status =
      encode(&map, shape.type, 3, const_cast<void*>(data), sizes, strides, box, element_strides,
             CU_TENSOR_MAP_INTERLEAVE_NONE, shape.swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  DT_CHECK(
      status == CUDA_SUCCESS,
      "the driver refused a tensor map over {} x {} x {} elements of {} bytes at {} (error {}); the address must be "
      "a multiple of 16 and a row a multiple of 16 bytes",
      shape.depth, shape.height, shape.width, shape.element_bytes, data, static_cast<int>(status));
  return map;
}

}  // namespace deeptitan::cuda
