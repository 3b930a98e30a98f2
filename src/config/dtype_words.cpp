#include "config/dtype_words.h"

namespace deeptitan {

std::string_view usual_dtype_word(std::string_view word) {
  if (word == "f32" || word == "float32" || word == "float") return "fp32";
  if (word == "bfloat16") return "bf16";
  if (word == "f8" || word == "float8" || word == "f8_e4m3" || word == "fp8_e4m3") return "fp8";
  return word;
}

}  // namespace deeptitan
