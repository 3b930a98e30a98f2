#include "version.h"

#include <fmt/format.h>

#include "comm/mpi/mpi_world.h"
#include "commit.h"
#include "core/device_choice.h"
#include "kernels/cpu/matmul/panel_kernel.h"

namespace deeptitan {

std::string version_line() {
  const char* cuda = built_with_cuda() ? "with CUDA" : "without CUDA";
  return fmt::format("deeptitan {} ({}; CPU kernels for avx2, avx512, avx512_bf16, here {}; {}; {})", DT_VERSION,
                     DT_COMMIT, cpu::panel_isa().name, cuda, mpi_in_words());
}

}  // namespace deeptitan
