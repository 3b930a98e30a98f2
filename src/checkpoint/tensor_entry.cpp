#include "checkpoint/tensor_entry.h"

#include <fmt/ranges.h>

#include "core/error.h"

namespace deeptitan {

int64_t element_count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  bool overflow = false, empty = false;
  for (const int64_t extent : shape) {
    DT_CHECK(extent >= 0, "shape {} has a negative extent", shape_text(shape));
    empty = empty || extent == 0;
    overflow = overflow || __builtin_mul_overflow(count, extent == 0 ? 1 : extent, &count);
  }
  if (empty) return 0;
  DT_CHECK(!overflow, "shape {} has more than 2^63 - 1 elements", shape_text(shape));
  return count;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::string safetensors_dtype_name(DType dtype) {
  std::string name(dtype_name(dtype));
  for (char& c : name) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return name;
}

bool parse_safetensors_dtype(std::string_view name, DType& dtype) {
  for (const DType candidate : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kF64, DType::kI32,
                                DType::kI64, DType::kU8, DType::kI8, DType::kBool}) {
    if (safetensors_dtype_name(candidate) == name) {
      dtype = candidate;
      return true;
    }
  }
  return false;
}

}  // namespace deeptitan
