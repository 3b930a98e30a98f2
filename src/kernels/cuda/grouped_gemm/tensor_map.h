#pragma once

#include <cuda.h>

#include <cstdint>

namespace deeptitan::cuda {

/// A contiguous row-major array of three dimensions as the TMA sees it, read or written in boxes that begin at (column,
/// row, matrix). With box_blocks > 1 a box is that many neighbouring blocks of box_width columns, one after another in
/// shared memory; it begins at (0, row, block, matrix), and width must be a multiple of box_width.
struct TensorMapShape {
  CUtensorMapDataType type;
  int element_bytes;
  int64_t width, height, depth;  // elements; width is contiguous
  int64_t row_stride;            // elements between rows, a multiple of 16 bytes
  int box_width, box_height;     // elements; boxes are one deep
  int box_blocks = 1;
  bool swizzled;  // rows of a box are 128 or 64 bytes and are permuted in shared memory by 16-byte chunks
};

/// Describes `data` to the TMA: encoded on the host, passed to kernels by value. Throws Error if the driver refuses it.
CUtensorMap make_tensor_map(const void* data, const TensorMapShape& shape);

}  // namespace deeptitan::cuda
