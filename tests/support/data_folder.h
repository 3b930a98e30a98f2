#pragma once

#include <cstdlib>
#include <filesystem>

namespace deeptitan::testing {

/// The folder that tests read from: that of the sources, or DEEPTITAN_TEST_DATA on a host that has only the programs.
inline std::filesystem::path data_folder() {
  const char* elsewhere = std::getenv("DEEPTITAN_TEST_DATA");
  return elsewhere != nullptr && *elsewhere != 0 ? elsewhere : DT_TEST_DATA_DIR;
}

}  // namespace deeptitan::testing
