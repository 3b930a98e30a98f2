#include "comm/mpi/launcher.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

namespace deeptitan {
namespace {

struct Variables {
  const char* launcher;
  const char* rank;
  const char* size;
};

// In this order: Open MPI's mpirun sets PMIx's as well, and under srun MPI's own are more exact than Slurm's. A batch
// script, which is one process, has SLURM_PROCID too, but no step's number of tasks.
constexpr Variables kLaunchers[] = {
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
    {"mpiexec", "PMI_RANK", "PMI_SIZE"},
    {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
};

std::optional<int> number(const char* text) {
  if (text == nullptr) return std::nullopt;
  const std::string_view digits = text;
  int value = 0;
  const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || rest != digits.data() + digits.size()) return std::nullopt;
  return value;
}

}  // namespace

std::optional<Launch> find_launch(const std::function<const char*(const char*)>& variable) {
  for (const Variables& names : kLaunchers) {
    const std::optional<int> rank = number(variable(names.rank)), size = number(variable(names.size));
    if (rank && size && *size > 1 && *rank >= 0 && *rank < *size) return Launch{names.launcher, *rank, *size};
  }
  return std::nullopt;
}

std::optional<Launch> find_launch() {
  return find_launch([](const char* name) { return std::getenv(name); });
}

}  // namespace deeptitan
