#pragma once

#include <cstddef>
#include <string_view>

namespace deeptitan {

/// Element types of tensors and files. Names are those of safetensors in lower case ("f32", "bf16", ...).
enum class DType { kF32, kF16, kBF16, kF8E4M3, kF64, kI32, kI64, kU8, kI8, kBool };

/// Bytes of one element.
size_t dtype_size(DType dtype);

/// "f32", "bf16", "f8_e4m3", ...
std::string_view dtype_name(DType dtype);

}  // namespace deeptitan
