#pragma once

#include <functional>
#include <optional>
#include <string>

namespace deeptitan {

/// Who started this process as one of many, and what it says of that.
struct Launch {
  std::string launcher;  // "mpirun", "srun"
  int rank = 0;
  int size = 1;
};

/// What the environment says: Open MPI's mpirun, MPICH's and Intel's mpiexec (PMI), or Slurm's srun. nullopt
/// where this process was started by itself, or for one rank. `variable` looks a name up, as std::getenv.
std::optional<Launch> find_launch(const std::function<const char*(const char*)>& variable);

/// The same of this process's environment.
std::optional<Launch> find_launch();

}  // namespace deeptitan
