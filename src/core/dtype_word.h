#pragma once

#include <string_view>

#include "core/dtype.h"

namespace deeptitan {

/// A type as options and run files spell it, for messages to whom runs the program: "fp32", "bf16", "fp8"; else as
/// dtype_name.
inline std::string_view dtype_word(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "fp64";
    case DType::kF32:
      return "fp32";
    case DType::kF16:
      return "fp16";
    case DType::kF8E4M3:
      return "fp8";
    default:
      return dtype_name(dtype);
  }
}

}  // namespace deeptitan
