#pragma once

#include <string>

namespace deeptitan {

/// One line for --version: the release, the commit it was built from, the instruction sets that the CPU's kernels were
/// compiled for with the one in use here, and whether CUDA is built in.
std::string version_line();

}  // namespace deeptitan
