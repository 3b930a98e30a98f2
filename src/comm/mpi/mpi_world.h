#pragma once

#include <memory>
#include <optional>
#include <string>

#include "comm/mpi/launcher.h"
#include "comm/transport.h"

namespace deeptitan {

/// The file of the plug-in: that of DEEPTITAN_MPI, or libdeeptitan_mpi.so beside the program or in ../lib of its
/// folder; empty where there is none.
std::string find_mpi_plugin();

/// "Open MPI v4.1.4", or why MPI is not there, for --version. Starts nothing.
std::string mpi_in_words();

/// The library's name, as mpi_in_words has it; throws a usage error where the plug-in is not there. Starts nothing.
std::string check_mpi_plugin();

/// The processes that a launcher has started, over MPI. One for each process, and once.
class MpiWorld {
 public:
  /// Opens the plug-in and starts MPI. Throws a usage error that says what is missing: the plug-in, MPI's library, or
  /// a launcher that MPI knows (it sees another number of processes than `launch` says).
  explicit MpiWorld(const Launch& launch);
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;
  /// Ends MPI, which waits for all ranks. To be called where nothing has failed; else see end_all_ranks. MPI's own wait
  /// cannot be broken off: where it takes longer than `deadline` seconds, this says so and ends the process with exit
  /// code 1, at which the launcher ends the others.
  void finish(double deadline);
  ~MpiWorld();

  Transport& transport();
  int rank() const;
  int size() const;
  /// Place among the ranks of this host, and their number.
  int local_rank() const;
  int local_size() const;

 private:
  class Plugin;
  std::unique_ptr<Plugin> plugin_;
};

/// Ends all ranks at once with this exit code where MPI was started and has not ended; else returns.
void end_all_ranks(int exit_code);

}  // namespace deeptitan
