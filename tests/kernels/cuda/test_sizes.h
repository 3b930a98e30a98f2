#pragma once

#include <cstdlib>
#include <string_view>

namespace deeptitan::cuda {

/// Whether tests leave out shapes that are merely larger: DEEPTITAN_TEST_SIZES=small, as scripts/sanitize_gpu sets it
/// for racecheck, which looks at every access to shared memory on the host.
inline bool only_small_sizes() {
  const char* sizes = std::getenv("DEEPTITAN_TEST_SIZES");
  return sizes != nullptr && std::string_view(sizes) == "small";
}

}  // namespace deeptitan::cuda
