#pragma once

#include <string_view>

namespace deeptitan {

/// The spelling that this program prints of an element type: fp32 for f32, float32 and float, bf16 for bfloat16, fp8
/// for f8, float8 and f8_e4m3; any other word as it is.
std::string_view usual_dtype_word(std::string_view word);

}  // namespace deeptitan
