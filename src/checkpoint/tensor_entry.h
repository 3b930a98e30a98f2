#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"

namespace deeptitan {

/// A tensor in a mapped safetensors file. `data` points into the mapping, stays valid as long as the file object, and
/// need not be aligned to the element's size: read it through convert_elements or memcpy.
struct TensorEntry {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  const std::byte* data;
  size_t bytes;
};

/// A tensor that is going to be written.
struct TensorDeclaration {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
};

/// The product of the extents, 1 for a scalar; throws Error if one is negative or the product exceeds 2^63 - 1.
int64_t element_count(const std::vector<int64_t>& shape);

/// "[2, 3]"
std::string shape_text(const std::vector<int64_t>& shape);

/// The dtype of a safetensors name ("BF16"); false if deeptitan does not read it.
bool parse_safetensors_dtype(std::string_view name, DType& dtype);

/// The name in a safetensors header: "BF16", "F8_E4M3", ...
std::string safetensors_dtype_name(DType dtype);

}  // namespace deeptitan
