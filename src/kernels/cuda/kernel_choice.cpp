#include "kernels/cuda/kernel_choice.h"

#include <cstdlib>
#include <string_view>

#include "core/error.h"

namespace deeptitan::cuda {

bool plain_kernels_wanted() {
  static const char* const name = std::getenv("DEEPTITAN_CUDA_KERNELS");
  const std::string_view value = name == nullptr ? "fast" : name;
  DT_CHECK_USAGE(value == "plain" || value == "fast", "DEEPTITAN_CUDA_KERNELS = {}: use plain or fast", value);
  return value == "plain";
}

}  // namespace deeptitan::cuda
